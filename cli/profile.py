"""`skipstone profile` and `skipstone plan`: measure a model once, and choose the steps that run for a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from ..core.calibrate.calls import Judged, choose, dense, profile, proposals, with_plans
from ..core.errors import RecipeError
from ..core.forecast.profile import HeldOut, Profile
from ..core.plan.call_choice import PROMISED, Choice, choose_calls
from ..core.plan.call_plan import FEWEST_STEPS
from ..core.plan.run import Horizon
from ..core.recipe.auto import Auto
from ..core.recipe.call_skip import CallSkip
from ..lab.demo_models.loading import load_model
from ..pipelines.denoiser import PipelineDenoiser, denoiser_of
from ..pipelines.samplers import set_sampler

Model = Annotated[str, tyro.conf.Positional]
File = Annotated[Path, tyro.conf.Positional]

_PROFILED, _CHOOSING, _PROMISED = 0, 10_000, 20_000
"""First seeds of the noises for the profile, for choosing, and for the promised errors: disjoint."""


@dataclass(frozen=True)
class MakeProfile:
    """Measure a model with one sampler, number of steps and guidance, and choose which steps to run for some speed-ups.

    Example:
        >>> MakeProfile("demo").speedups[0]
        1.3
    """

    model: Model
    """"demo", "demo-dit", "demo-flow", a diffusers folder, or a single .safetensors checkpoint."""
    steps: int = 20
    """Sampling steps."""
    guidance: float | None = None
    """Guidance scale; the pipeline's own by default."""
    sampler: str = ""
    """Short name of a sampler of diffusers, such as euler_a or dpmpp_2m_karras; the pipeline's own by default."""
    speedups: tuple[float, ...] = (1.3, 1.5, 1.8, 2.0, 2.5, 3.0, 4.0)
    """Speed-ups to choose steps for."""
    samples: int = 8
    """Dense pictures that are recorded."""
    choosing: int = 12
    """Noises on which the proposals are compared."""
    promised: int = 128
    """Further noises on which the promised errors are measured; 9 at least. With 128, the 90% error is that of 85 to 95% of
    new pictures, in 19 of 20 profiles; with 32, of 79 to 98%."""
    batch: int = 4
    """Pictures that run together."""
    prompts: tuple[str, ...] = ()
    """Texts, or class names and numbers; each sample takes one of them."""
    size: int | None = None
    """Picture side in pixels; the model's own by default."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    half: bool = False
    """Run the network in fp16."""
    config: Path | None = None
    """For a single checkpoint: local diffusers folder of the same kind of model."""
    out: Path = Path("profile.safetensors")
    """File to write."""


@dataclass(frozen=True)
class Plan:
    """Print the steps that run by a profile, and the error that is promised.

    Example:
        >>> Plan(Path("profile.safetensors")).speedup
        2.0
    """

    profile: File
    """Profile file."""
    speedup: float = 2.0
    """How many times fewer steps run the model."""
    calls: int = 0
    """Exact number of steps that run; 0 uses the speedup."""
    max_error: float = 0.0
    """Largest error that 90% of the pictures may have; 0 uses the speedup."""
    steps: int | None = None
    """Sampling steps; the profile's own by default."""
    png: Path | None = None
    """Picture to write: errors by number of steps, and the steps that run."""


def make_profile(options: MakeProfile, say: Callable[[str], Any] = print) -> Profile:
    """Record, choose, measure, and write the profile. The file is complete after each speed-up.

    Args:
        options: what to measure.
        say: prints progress.

    Raises :class:`SkipstoneError` for bad input.

    Example:
        >>> make_profile(MakeProfile("demo", steps=8))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 8 steps are too few to forecast any: give more than 8
    """
    _check(options)
    denoiser = _denoiser(options)
    found = profile(denoiser, range(_PROFILED, _PROFILED + options.samples), options.batch)
    say(f"recorded {options.samples} dense pictures of {found.steps} calls")
    reference = _Reference(denoiser)
    choosing = range(_CHOOSING, _CHOOSING + options.choosing)
    promised = range(_PROMISED, _PROMISED + options.promised)
    for calls in sorted({max(2, round(found.steps / s)) for s in options.speedups}, reverse=True):
        best, judged = choose(denoiser, proposals(found, calls), choosing, promised, reference, options.batch)
        found = with_plans(found, [best])
        say(_line(best, found.steps))
        for one in sorted(judged, key=lambda j: j.score)[1:]:
            say(f"    lost: {_lost(one)}")
        found.save(options.out)
    say(f"wrote {options.out}")
    return found


def show_plan(options: Plan, say: Callable[[str], Any] = print) -> Choice:
    """Print what a profile chooses.

    Args:
        options: the profile, and what is wanted of it.
        say: prints.

    Raises :class:`SkipstoneError` for what it cannot give.

    Example:
        >>> show_plan(Plan(Path("no such file.safetensors")))
        Traceback (most recent call last):
        skipstone.core.errors.ProfileError: cannot use profile ...
    """
    known = Profile.load(options.profile)
    method: Auto | CallSkip = Auto(options.speedup, options.max_error, str(options.profile))
    if options.calls:
        method = CallSkip(calls=options.calls, profile=str(options.profile))
    times = known.timesteps if options.steps in (None, known.steps) else None
    chosen = choose_calls(method, Horizon(times, steps=options.steps or known.steps), known.network)
    steps, keys = options.steps or known.steps, chosen.settings.keys
    say(f"runs {len(keys)} of {steps} steps: {', '.join(map(str, keys))}")
    say(f"line on {chosen.settings.space}; {chosen.why}")
    if chosen.promise is not None:
        say(f"{PROMISED:.0%} of pictures stay under an error of {chosen.promise:.4f}")
    if options.png is not None:
        from ..lab.bench.call_plot import draw_plan

        draw_plan(options.png, known, chosen)
        say(f"wrote {options.png}")
    return chosen


def _check(options: MakeProfile) -> None:
    if options.steps <= FEWEST_STEPS:
        raise RecipeError(f"{options.steps} steps are too few to forecast any: give more than {FEWEST_STEPS}")
    least = {"samples": 1, "choosing": 2, "promised": 9, "batch": 1}
    for name, low in least.items():
        if getattr(options, name) < low:
            raise RecipeError(f"--{name} {getattr(options, name)} is too few: give {low} at least")
    if not options.speedups or min(options.speedups) <= 1:
        raise RecipeError("--speedups must be above 1, such as 1.5 2 3")


def _denoiser(options: MakeProfile) -> PipelineDenoiser:
    pipe = load_model(options.model, options.device, options.half, options.config)
    set_sampler(pipe, options.sampler)
    return denoiser_of(pipe, options.steps, options.guidance, options.prompts, size=options.size)


class _Reference:
    """The dense latents of seeds, drawn once."""

    def __init__(self, denoiser: PipelineDenoiser) -> None:
        self._denoiser = denoiser
        self._drawn: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, seeds: Sequence[int]) -> Tensor:
        key = tuple(seeds)
        if key not in self._drawn:
            self._drawn[key] = dense(self._denoiser, seeds)[0]
        return self._drawn[key]


def _line(plan: HeldOut, steps: int) -> str:
    q50, q90, q95 = (plan.quantile(share) for share in (0.5, 0.9, 0.95))
    return (
        f"{len(plan.keys)} of {steps} steps ({steps / len(plan.keys):.2f}x): {plan.name}, line on {plan.space}; error under "
        f"{q50:.4f} / {q90:.4f} / {q95:.4f} for 50 / 90 / 95% of pictures, {plan.turned:.0%} another picture"
    )


def _lost(one: Judged) -> str:
    return f"{one.proposal.name}, line on {one.proposal.space}: {one.score:.4f}"
