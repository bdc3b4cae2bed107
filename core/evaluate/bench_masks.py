"""`skipstone bench masks`: trained masks beside rule-made ones and fewer steps, at equal multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..calibrate.masks.costs import MARGIN
from ..calibrate.masks.gated import frozen
from ..calibrate.masks.settings import TrainSettings
from ..calibrate.masks.subject import Subject, prepare
from ..calibrate.masks.trainer import EVALUATION_SEEDS
from ..errors import MaskError, RecipeError, SkipstoneError
from ..pipelines.denoisers import denoiser_of
from ..pipelines.loading import load_pipeline
from ..plan.mask import Mask
from .figures import Bench, Figures, Progress, Table, publish
from .mask_peers import deepcache_mask, interval_mask, router_mask, variation_mask
from .mask_quality import Judge, icon_judge, judged
from .timing import machine, threads

_PROFILE_SEEDS = 1 << 30


@dataclass(frozen=True)
class MaskBench:
    """Compare masks with the dense run, on noises that no training uses."""

    model: str = "demo-dit"
    """`demo` or `demo-dit`, a diffusers folder, or a single .safetensors file."""
    files: tuple[Path, ...] = ()
    """Trained masks, for `steps` calls; each joins the target that its share is nearest to."""
    targets: tuple[float, ...] = (0.7, 0.51, 0.37)
    """Shares of the multiply-adds at which masks are made."""
    steps: int = 20
    """Sampling steps."""
    guidance: float | None = None
    """Guidance scale; the pipeline's own without it."""
    noises: int = 32
    """Samples."""
    router_passes: int = 0
    """Passes for which a router in the manner of Learning-to-Cache is trained; 0 leaves it out."""
    threads: int | None = None
    """torch threads; torch's own number without it."""
    out: Path = Path("out/bench_masks.json")
    """Where the figures go."""
    markdown: Path | None = None
    """A Markdown file whose section between the bench-masks markers is replaced by the tables."""
    load: Path | None = None
    """Show the figures of an earlier run's JSON file; measure nothing."""

    def check(self) -> None:
        """Refuse what cannot be measured. Raises :class:`RecipeError`."""
        if self.noises < 2 or self.steps < 2 or not self.targets:
            raise RecipeError("noises and steps must be 2 or more, and there must be a target, such as 0.5")
        if not all(0 < t <= 1 for t in self.targets):
            raise RecipeError(f"targets {list(self.targets)} must be shares in (0, 1], such as 0.5")


def run_mask_bench(options: MaskBench, say: Progress = print, command: str = "") -> Figures:
    """Measure, or load, then show, save and document. Returns what the JSON file holds. Raises :class:`SkipstoneError`."""
    options.check()
    with threads(options.threads or torch.get_num_threads()):
        return publish(MASKS, options, lambda: measure(options, say, command), say)


def measure(options: MaskBench, say: Progress, command: str = "") -> Figures:
    """All figures of one bench, as plain values."""
    arena = Arena(options)
    trained = [(path, Mask.load(path)) for path in options.files]
    rows: list[dict[str, Any]] = []
    with frozen(arena.plain.denoiser.network):
        for target in sorted(options.targets, reverse=True):
            say(f"{target:.0%} of the multiply-adds")
            rows += arena.rules(target)
            nearest = [(p, m) for p, m in trained if _nearest(arena.share(m), options.targets) == target]
            rows += [arena.row(target, path.stem, mask.run, mask.forecast) for path, mask in nearest]
            rows.append(arena.fewer_steps(target))
    settings = {key: getattr(options, key) for key in ("model", "steps", "guidance", "noises")}
    return {"command": command, "machine": machine("cpu"), "absent": arena.absent, **settings, "rows": rows}


class Arena:
    """A denoiser, its dense results on the evaluation noises, and everything that is set against them."""

    def __init__(self, options: MaskBench) -> None:
        """Load the model and draw dense."""
        self.options, self.absent = options, list[str]()
        self._pipe = load_pipeline(options.model)
        denoiser = denoiser_of(self._pipe, options.steps, options.guidance)
        self.plain, self.ahead = prepare(denoiser), prepare(denoiser, forecast=True)
        self.seeds = [EVALUATION_SEEDS + i for i in range(options.noises)]
        with frozen(denoiser.network):
            dense = self.plain.rollout(self.seeds)
        self.judge = icon_judge(dense) if options.model.startswith("demo") else Judge(dense)

    def share(self, mask: Mask) -> float:
        """What a mask needs. Raises :class:`MaskError` for one of another model or number of calls."""
        fitted = mask.fitted(self.plain.family, self.plain.graph)
        if fitted.run.shape != self.plain.shape:
            raise MaskError(f"a mask for {len(fitted.run)} calls: give masks for --steps {self.options.steps}")
        return self.plain.costs.share(fitted.run)

    def row(self, target: float, name: str, run: np.ndarray, forecast: bool) -> dict[str, Any]:
        """One mask's figures."""
        near = judged(self.ahead if forecast else self.plain, self.judge, run, self.seeds)
        return {"target": target, "name": name + (", forecast" if forecast else ""), **_plain(near)}

    def rules(self, target: float) -> list[dict[str, Any]]:
        """Rule-made masks, repeating and forecasting."""
        found = dict(self._made(target))
        return [self.row(target, name, run, ahead) for name, run in found.items() for ahead in (False, True)]

    def _made(self, target: float) -> Iterator[tuple[str, np.ndarray]]:
        profile = [_PROFILE_SEEDS + i for i in range(4)]
        makers = {
            "interval": lambda: interval_mask(self.plain, target),
            "feature variation": lambda: variation_mask(self.plain, target, profile),
        }
        if self.plain.graph.caching == "output":
            makers["DeepCache"] = lambda: deepcache_mask(self.plain, target)
        if self.options.router_passes:
            settings = TrainSettings(target=target, passes=self.options.router_passes)
            makers["router"] = lambda: router_mask(self.plain, settings)
        for name, make in makers.items():
            try:
                yield name, make()
            except SkipstoneError as reason:
                self.absent.append(f"{name} at {target:.0%} ({reason})")

    def fewer_steps(self, target: float) -> dict[str, Any]:
        """The dense model with as many steps as fit, rounded up."""
        steps = int(np.ceil(target * self.options.steps - 1e-9))
        fewer: Subject = replace(self.plain, denoiser=denoiser_of(self._pipe, steps, self.options.guidance))
        near = self.judge(fewer.rollout(self.seeds), steps / self.options.steps)
        return {"target": target, "name": f"dense, {steps} steps", **_plain(near)}


def _plain(near: Any) -> dict[str, float]:
    return {name: getattr(near, name) for name in ("share", "rel_l2", "psnr_db", "frechet")}


def _nearest(share: float, targets: Sequence[float]) -> float:
    target = min(targets, key=lambda t: abs(t - share))
    if abs(target - share) > 2 * MARGIN:
        raise MaskError(f"a mask that needs {share:.1%} is near none of the targets {list(targets)}: add one")
    return target


def tables(result: Figures) -> list[Table]:
    """One table, target by target, the nearest to dense first."""
    scale = "the pipeline's guidance" if result["guidance"] is None else f"guidance {result['guidance']:g}"
    title = f"{result['model']}, {result['steps']} steps, {scale}, {result['noises']} noises that no training used"
    ordered = sorted(result["rows"], key=lambda row: (-row["target"], row["rel_l2"]))
    header = ("target", "way", "multiply-adds", "error", "PSNR, dB", "Frechet")
    return [Table(title, header, tuple(map(_cells, ordered)))]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    figures = (f"{row['share']:.1%}", f"{row['rel_l2']:.4f}", f"{row['psnr_db']:.1f}", f"{row['frechet']:.3f}")
    return (f"{row['target']:.0%}", row["name"], *figures)


MASKS = Bench("masks", ("model", "steps", "guidance", "noises", "rows"), tables)
