"""`skipstone bench joint`: calls skipped and tokens merged together, at the cost that both have on a full-size model.

Errors are the small U-Net's, and so are the shares of tokens that merge. Multiply-adds are counted on SD1.5's U-Net, whose
attention at the latent's resolution costs 15 % of a call at 512 px and 38 % at 1024 px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.calibrate.profiling import accelerated, dense, parts
from ...core.errors import RecipeError
from ...core.measure.fidelity import relative_errors
from ...core.measure.timing import machine, threads
from ...core.recipe.call_skip import CallSkip
from ...core.recipe.presets import preset
from ...core.recipe.token_merge import TokenMerge
from ...pipelines.denoiser import PipelineDenoiser, denoiser_of
from ...pipelines.samplers import check_sampler, set_sampler
from ..demo_models.loading import load_model
from .call_tables import ratio
from .figures import Bench, Figures, Files, Progress, Table, publish
from .full_size import FullSize
from .paired import paired

_SEEDS = 40_000
"""First seed of the reported noises, as in `bench calls`."""
_BATCH = 8


@dataclass(frozen=True)
class JointBench(Files):
    """Compare calls skipped and tokens merged together with calls skipped alone, at equal multiply-adds of a full-size model.

    Example:
        >>> JointBench(calls=(20,)).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: give 2 noises or more, and two --calls or more between 2 and 19
    """

    model: str = "demo"
    """`demo`, a diffusers folder, or a single .safetensors file: a U-Net."""
    steps: int = 20
    """Sampling steps."""
    calls: tuple[int, ...] = (13, 10, 8, 7, 6, 5, 4)
    """Numbers of steps that run."""
    thresholds: tuple[float, ...] = (0.9, 0.8)
    """Thresholds of merging, with the other settings of the preset *balanced*."""
    sizes: tuple[int, ...] = (512, 768, 1024)
    """Sides of SD1.5's pictures in pixels, at which multiply-adds are counted."""
    sampler: str = "ddim"
    """Short name of a sampler of diffusers."""
    guidance: float = 3.0
    """Guidance scale."""
    noises: int = 32
    """Samples."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    threads: int | None = None
    """torch threads; torch's own number without it."""
    out: Path = Path("out/bench_joint.json")
    """Where the figures go."""

    def check(self) -> None:
        """Refuse what cannot be measured. Raises :class:`RecipeError`."""
        if self.noises < 2 or len(self.calls) < 2 or not all(2 <= n < self.steps for n in self.calls):
            raise RecipeError(f"give 2 noises or more, and two --calls or more between 2 and {self.steps - 1}")
        if any(size % 64 or size < 64 for size in self.sizes):
            raise RecipeError("--sizes must be multiples of 64")
        check_sampler(self.sampler)


def run_joint_bench(options: JointBench, say: Progress = print, command: str = "") -> Figures:
    """Measure, or load, then show, save and document.

    Args:
        options: what to compare.
        say: prints progress.
        command: the command line, to store with the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for bad options and files.

    Example:
        >>> run_joint_bench(JointBench(sampler="eulr"))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no sampler 'eulr': choose ddim, euler, ...
    """
    options.check()
    with threads(options.threads or torch.get_num_threads()):
        return publish(JOINT, options, lambda: measure(options, say, command), say)


def measure(options: JointBench, say: Progress, command: str) -> Figures:
    """Return the figures of all ways.

    Args:
        options: what to compare.
        say: prints progress.
        command: the command line.

    Example:
        >>> measure(JointBench(noises=2, calls=(10, 4), thresholds=()), print, "")["rows"][0]["name"]  # doctest: +SKIP
        'calls alone'
    """
    pipe = load_model(options.model, options.device)
    set_sampler(pipe, options.sampler)
    denoiser = denoiser_of(pipe, options.steps, options.guidance)
    seeds = parts(range(_SEEDS, _SEEDS + options.noises), _BATCH)
    references = [dense(denoiser, part)[0] for part in seeds]
    sizes = {size: FullSize.sd15(size) for size in options.sizes}
    rows = []
    for merge in (None, *(replace(_balanced(), threshold=t) for t in options.thresholds)):
        for calls in (*options.calls, *([options.steps] if merge else [])):
            row = _row(denoiser, seeds, references, calls, merge, sizes)
            rows.append(row)
            say(f"{row['name']}, {calls} of {options.steps} calls: {np.mean(row['errors']):.4f}")
    return {
        "command": command, "machine": machine(options.device), "absent": [], "model": options.model, "sampler": options.sampler,
        **{key: getattr(options, key) for key in ("steps", "guidance", "noises")}, "sizes": [*sizes], "rows": rows,
    }  # fmt: skip


def _balanced() -> TokenMerge:
    merge = preset("balanced").merge
    assert merge is not None
    return merge


def _row(
    denoiser: PipelineDenoiser,
    seeds: Sequence[Sequence[int]],
    references: Sequence[torch.Tensor],
    calls: int,
    merge: TokenMerge | None,
    sizes: Mapping[int, FullSize],
) -> dict[str, Any]:
    """Return one way: its errors, one per noise, and what it costs at each full size."""
    skipping = [CallSkip(calls=calls)] if calls < len(denoiser.timesteps) else []
    errors, shares, merged = [], [], []
    for part, true in zip(seeds, references, strict=True):
        latents, _, report = accelerated(denoiser, part, [*([merge] if merge else []), *skipping])
        errors += relative_errors(latents, true).tolist()
        shares.append([large.share(report, merge) for large in sizes.values()])
        merged.append(report.merged_share)
    return {
        "name": f"merged from {merge.threshold:g}" if merge else "calls alone", "calls": calls, "errors": errors,
        "merged": float(np.mean(merged)), "shares": np.mean(shares, axis=0).tolist(),
    }  # fmt: skip


def tables(result: Figures) -> list[Table]:
    """Return a table for each size: each way beside calls alone at the same multiply-adds.

    Args:
        result: the figures.

    Example:
        >>> tables({"sizes": (), "rows": []})
        []
    """
    return [_table(result, place, size) for place, size in enumerate(result["sizes"])]


def _table(result: Figures, place: int, size: int) -> Table:
    alone = [row for row in result["rows"] if row["name"] == "calls alone"]
    lines = []
    for row in sorted(result["rows"], key=lambda row: -row["shares"][place]):
        share, errors = row["shares"][place], np.asarray(row["errors"])
        beside = None if row in alone else at_share(alone, share)
        found = paired(errors, errors if beside is None else beside)
        lines.append(
            (
                row["name"], f"{row['calls']} of {result['steps']}", f"{row['merged']:.0%}" if row["merged"] else "",
                f"{share:.1%}", f"{found['mean']:.4f}", f"{found['geometric']:.4f}", "" if beside is None else ratio(found),
            )
        )  # fmt: skip
    header = ("way", "calls", "merged", "multiply-adds", "error, mean", "geometric", "ratio to calls alone")
    title = (
        f"{result['model']}, {result['sampler']}, guidance {result['guidance']:g}, {result['noises']} noises; multiply-adds of "
        f"SD1.5 at {size} px"
    )
    return Table(title, header, tuple(lines))


def at_share(alone: Sequence[Mapping[str, Any]], share: float) -> np.ndarray | None:
    """Return the errors that calls alone would have at a share of the multiply-adds, on a straight line between two numbers of
    calls; None beyond them.

    Args:
        alone: rows of calls alone.
        share: of the dense run's multiply-adds.

    Example:
        >>> rows = [{"shares": [0.5], "errors": [0.01]}, {"shares": [0.25], "errors": [0.03]}]
        >>> at_share(rows, 0.375)
        array([0.02])
    """
    known = sorted(alone, key=lambda row: row["shares"][0])
    places = [row["shares"][0] for row in known]
    if not known or not places[0] <= share <= places[-1]:
        return None
    return np.array(
        [np.interp(share, places, errors) for errors in zip(*(row["errors"] for row in known), strict=True)]
    )


JOINT = Bench("joint", ("model", "sampler", "steps", "guidance", "noises", "sizes", "rows"), tables)
