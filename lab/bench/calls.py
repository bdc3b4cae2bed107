"""`skipstone bench calls`: whole calls forecast, beside fewer steps of the same sampler and beside published forecasters.

Every way draws the same noises as the dense run, through the engine. Errors are relative L2 distances of the final latents;
the ratio to fewer steps is the geometric mean over noises, paired, with its 95 % confidence interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.calibrate.profiling import closed_loop, dense, parts
from ...core.errors import RecipeError
from ...core.forecast.profile import Profile
from ...core.measure.fidelity import relative_errors
from ...core.measure.timing import machine, threads
from ...core.models.family import identity
from ...core.plan.call_choice import choose_calls
from ...core.recipe.auto import Auto
from ...core.recipe.call_skip import CallSkip
from ...pipelines.denoiser import PipelineDenoiser, denoiser_of
from ...pipelines.samplers import FLOW_SAMPLERS, SAMPLERS, check_sampler, missing_package, set_sampler
from ..demo_models.loading import load_model
from .call_tables import sampler_table, way_table
from .figures import Bench, Figures, Files, Progress, Table, publish
from .forecasters import PEERS, spectrum
from .paired import paired
from .promise import coverage, promise_tables
from .same_noise import noise_of
from .skipped_call import skipped_call_costs, skipped_call_tables

_SEEDS = 40_000
"""First seed of the reported noises: profiles use others."""
_BATCH = 8
FEWER = "fewer steps"
LINE, CORRECTED = "line on eps, even", "corrected line, even"


@dataclass(frozen=True)
class CallBench(Files):
    """Compare forecast calls with fewer steps and with published forecasters, at equal calls of the network.

    Example:
        >>> CallBench(calls=(20,)).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: give 2 noises or more, and --calls between 2 and 19
    """

    model: str = "demo-dit"
    """`demo`, `demo-dit` or `demo-flow`, a diffusers folder, or a single .safetensors file."""
    steps: int = 20
    """Sampling steps."""
    calls: tuple[int, ...] = (10, 7)
    """Numbers of steps that run."""
    samplers: tuple[str, ...] = ("ddim", "euler", "dpmpp_2m", "unipc")
    """Short names of diffusers' samplers, such as euler_a or dpmpp_2m_karras; none for the profile's promise alone."""
    guidance: tuple[float, ...] = (1.0, 3.0)
    """Guidance scales."""
    noises: int = 32
    """Samples."""
    peers: bool = False
    """Measure the published forecasters, too."""
    profile: Path | None = None
    """A profile of the model: its promise is checked, and its plans join where sampler, steps and guidance are its own."""
    covering: int = 128
    """Fresh noises on which the profile's promise is checked; 0 leaves it out."""
    overhead: bool = False
    """Measure the time of a skipped call, too."""
    brief: bool = False
    """Show one line per sampler: the ratio of the default to fewer steps."""
    section: str = ""
    """Name of the section in the Markdown file; the model and the steps by default."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    threads: int | None = None
    """torch threads; torch's own number without it."""
    out: Path = Path("out/bench_calls.json")
    """Where the figures go."""

    def check(self) -> None:
        """Refuse what cannot be measured. Raises :class:`RecipeError`."""
        if self.noises < 2 or not self.calls or not all(2 <= n < self.steps for n in self.calls):
            raise RecipeError(f"give 2 noises or more, and --calls between 2 and {self.steps - 1}")
        for name in self.samplers:
            check_sampler(name)


def run_call_bench(options: CallBench, say: Progress = print, command: str = "") -> Figures:
    """Measure, or load, then show, save and document.

    Args:
        options: what to compare.
        say: prints progress.
        command: the command line, to store with the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for bad options and files.

    Example:
        >>> run_call_bench(CallBench(samplers=("eulr",)))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no sampler 'eulr': choose ddim, euler, ...
    """
    options.check()
    with threads(options.threads or torch.get_num_threads()):
        return publish(_bench_of(options), options, lambda: measure(options, say, command), say)


def measure(options: CallBench, say: Progress, command: str) -> Figures:
    """Return the figures of all samplers and guidance scales.

    Args:
        options: what to compare.
        say: prints progress.
        command: the command line.

    Example:
        >>> measure(CallBench(samplers=()), print, "skipstone bench calls")["rows"]
        []
    """
    rows: list[dict[str, Any]] = []
    absent = {name: package for name in options.samplers if name in SAMPLERS and (package := missing_package(name))}
    for sampler in (name for name in options.samplers if name not in absent):
        for guidance in options.guidance:
            for row in _rows(options, sampler, guidance):
                rows.append(row)
                say(f"{sampler} {guidance:g} {row['calls']} {row['name']}: {row['geometric']:.4f}")
    promise = _promise(options) if options.profile and options.covering else []
    skipped = skipped_call_costs(options.model, options.profile, device=options.device) if options.overhead else {}
    return {
        "command": command, "machine": machine(options.device), "model": options.model, "steps": options.steps,
        "absent": [f"{name} (needs {package})" for name, package in absent.items()],
        "noises": options.noises, "rows": rows, "promise": promise, "covering": options.covering, "skipped": skipped,
    }  # fmt: skip


def _promise(options: CallBench) -> list[dict[str, Any]]:
    """Return how many fresh noises stay under what the profile promises."""
    known = Profile.load(options.profile or "")
    every = (*SAMPLERS.items(), *FLOW_SAMPLERS.items())
    name = next((name for name, sampler in every if sampler.kind == known.sampler), "")
    denoiser = _denoiser(options, name, known.steps, known.guidance)
    known.fits(identity(denoiser.network))
    return coverage(known, denoiser, options.covering, str(options.profile))


def _rows(options: CallBench, sampler: str, guidance: float) -> Iterator[dict[str, Any]]:
    seeds = range(_SEEDS, _SEEDS + options.noises)
    denoiser = _denoiser(options, sampler, options.steps, guidance)
    reference = _latents(denoiser, seeds, None)
    for calls in options.calls:
        shorter = _denoiser(options, sampler, calls, guidance)
        control = _fewer_steps(shorter, denoiser, seeds)
        fewer = _errors(control, reference)
        told = {"sampler": sampler, "guidance": guidance, "calls": calls}
        yield {"name": FEWER, **told, **paired(fewer, fewer), "psnr_db": _psnr(control, reference)}
        count = -(-len(shorter.timesteps) // shorter.horizon.stages)  # PNDM evaluates a level twice
        for name, settings in _ways(options, denoiser, count).items():
            found = _latents(denoiser, seeds, settings)
            errors = _errors(found, reference)
            yield {"name": name, **told, **paired(errors, fewer), "psnr_db": _psnr(found, reference)}


def _fewer_steps(fewer: PipelineDenoiser, denoiser: PipelineDenoiser, seeds: Sequence[int]) -> Tensor:
    """Return the final latents of fewer steps; where the sampler adds noise, with that of the full run."""
    found = []
    for part in parts(seeds, _BATCH):
        with noise_of(denoiser, fewer, part):
            found.append(dense(fewer, part)[0])
    return torch.cat(found)


def _ways(options: CallBench, denoiser: PipelineDenoiser, calls: int) -> dict[str, CallSkip]:
    ways = {LINE: CallSkip(calls=calls, predictor="line")}
    if denoiser.horizon.corrects(calls):
        ways[CORRECTED] = CallSkip(calls=calls)
    planned = _planned(options, denoiser, calls)
    if planned is not None:
        ways["by profile"] = planned
    if options.peers:
        ways |= {name: CallSkip(calls=calls, **peer) for name, peer in PEERS.items()}
        ways["Spectrum"] = spectrum(options.steps, calls)
    return ways


def _planned(options: CallBench, denoiser: PipelineDenoiser, calls: int) -> CallSkip | None:
    """Return the profile's plan; None where it was made for another run."""
    if options.profile is None:
        return None
    known = Profile.load(options.profile)
    if (known.sampler, known.steps, known.guidance) != (denoiser.sampler, options.steps, denoiser.guidance):
        return None
    auto = Auto(speedup=options.steps / calls, profile=str(options.profile))
    return choose_calls(auto, denoiser.horizon, known.network).settings


def _latents(denoiser: PipelineDenoiser, seeds: Sequence[int], settings: CallSkip | None) -> Tensor:
    if settings is None:
        return torch.cat([dense(denoiser, part)[0] for part in parts(seeds, _BATCH)])
    return torch.cat([closed_loop(denoiser, part, settings)[0] for part in parts(seeds, _BATCH)])


def _errors(latents: Tensor, reference: Tensor) -> np.ndarray:
    return relative_errors(latents, reference).cpu().numpy()


def _psnr(latents: Tensor, reference: Tensor) -> float:
    """Return the mean PSNR in dB of latents in -1..1, which the demo models' pictures are."""
    squares = (latents - reference).double().square().flatten(1).mean(dim=1).clamp(min=1e-12)
    return float((10 * torch.log10(4 / squares)).mean())


def _denoiser(options: CallBench, sampler: str, steps: int, guidance: float) -> PipelineDenoiser:
    pipe = load_model(options.model, options.device)
    set_sampler(pipe, sampler)
    return denoiser_of(pipe, steps, guidance)


def _bench_of(options: CallBench) -> Bench:
    name = options.section or f"{options.model}, {options.steps} steps"
    tables = partial(_tables, brief=options.brief)
    return Bench(f"calls {name}", ("model", "steps", "noises", "rows", "promise", "covering", "skipped"), tables)


def _tables(result: Figures, brief: bool = False) -> list[Table]:
    ways = [sampler_table(result, (LINE, CORRECTED)) if brief else way_table(result)] if result["rows"] else []
    promise = promise_tables(result.get("promise", ()), result["model"], result.get("covering", 0))
    return [*ways, *promise, *skipped_call_tables(result.get("skipped", {}), result["model"])]
