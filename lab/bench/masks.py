"""`skipstone bench masks`: trained masks beside rule-made ones and fewer steps, at equal multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.calibrate.masks.baselines import rule_masks
from ...core.calibrate.masks.costs import MARGIN
from ...core.calibrate.masks.gated import frozen
from ...core.calibrate.masks.masked_model import MaskedModel, prepare
from ...core.calibrate.masks.seeds import EVALUATION_SEEDS
from ...core.calibrate.masks.settings import TrainSettings
from ...core.errors import MaskError, RecipeError, SkipstoneError
from ...core.measure.timing import machine, threads
from ...core.plan.mask_fit import fitted
from ...core.recipe.mask import Mask
from ...pipelines.denoiser import denoiser_of
from ..demo_models.loading import load_model
from .figures import Bench, Figures, Files, Progress, Table, publish
from .mask_forms import MaskTrainer, check_forms, unrectified_share
from .mask_peers import router_mask
from .mask_quality import Closeness, DenseReference, closeness_of, icon_reference, own_loss

_PROFILE_SEEDS = 1 << 30
_FEW = 4
"""Noises on which feature losses are measured, and feature variation."""


@dataclass(frozen=True)
class MaskBench(Files):
    """Compare masks with the dense run, on noises that no training uses.

    Example:
        >>> MaskBench(targets=(50,)).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: targets [50] must be shares in (0, 1], such as 0.5
    """

    model: str = "demo-dit"
    """`demo`, `demo-dit` or `demo-flow`, a diffusers folder, or a single .safetensors file."""
    files: tuple[Path, ...] = ()
    """Trained masks, for `steps` calls; each joins the target that its share is nearest to."""
    train: tuple[str, ...] = ()
    """Forms of training whose masks are made for every target: search, paper, paper-gumbel, ..., windowed, joint."""
    seeds: int = 3
    """Trainings of each form, and of the router."""
    passes: int = 60
    """Of the forms that take gradients, and of the router."""
    batch: int = 2
    """Samples of such a pass."""
    masks: Path = Path("out/masks")
    """Folder in which trained masks are kept; those that it holds are not trained again."""
    targets: tuple[float, ...] = (0.7, 0.5, 0.35)
    """Shares of the multiply-adds at which masks are made; each may need a point more, as in training."""
    steps: int = 20
    """Sampling steps."""
    guidance: float | None = None
    """Guidance scale; the pipeline's own without it."""
    noises: int = 64
    """Samples."""
    router: bool = False
    """Train a router in the manner of Learning-to-Cache, too."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    threads: int | None = None
    """torch threads; torch's own number without it."""
    out: Path = Path("out/bench_masks.json")
    plot: Path | None = None
    """A PNG of errors and Frechet distances over the share of the multiply-adds."""

    def check(self) -> None:
        """Raise :class:`RecipeError` for options that cannot be measured."""
        if self.noises < 2 or self.steps < 2 or not self.targets or self.seeds < 1:
            raise RecipeError("noises and steps must be 2 or more, seeds 1, and there must be a target, such as 0.5")
        if not all(0 < t <= 1 for t in self.targets):
            raise RecipeError(f"targets {list(self.targets)} must be shares in (0, 1], such as 0.5")
        check_forms(self.train)


def run_mask_bench(options: MaskBench, say: Progress = print, command: str = "") -> Figures:
    """Measure or load, then show, plot, save and document.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for options or files that cannot be used.

    Example:
        >>> run_mask_bench(MaskBench(load=Path("no such file")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench masks demo-dit' ...
    """
    options.check()
    with threads(options.threads or torch.get_num_threads()):
        result = publish(_bench_of(options.model), options, lambda: measure(options, say, command), say)
    if options.plot:
        from .mask_plot import plot_masks

        plot_masks(result, options.plot)
        say(f"wrote {options.plot}")
    return result


def measure(options: MaskBench, say: Progress, command: str = "") -> Figures:
    """Measure all figures of the bench.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns plain values. Raises :class:`SkipstoneError` for a model or masks that cannot be used.

    Example:
        >>> measure(MaskBench(model="no such model"), print)
        Traceback (most recent call last):
        skipstone.core.errors.ModelError: no model at 'no such model': ...
    """
    comparison = _MaskComparison(options)
    trained = [(path, Mask.load(path)) for path in options.files]
    rows: list[dict[str, Any]] = []
    with frozen(comparison.plain.denoiser.network):
        for target in sorted(options.targets, reverse=True):
            say(f"{target:.0%} of the multiply-adds")
            rows += comparison.rules(target)
            nearest = [(p, m) for p, m in trained if _nearest(comparison.share(m), options.targets) == target]
            rows += [comparison.row(target, path.stem, [mask.run], mask.forecast) for path, mask in nearest]
            for form in options.train:
                say(f"  {form}")
                rows.append(comparison.form(target, form))
            rows += comparison.fewer_steps(target)
    settings = {key: getattr(options, key) for key in ("model", "steps", "guidance", "noises")}
    return {
        "command": command,
        "machine": machine(options.device),
        "absent": comparison.absent,
        **settings,
        "rows": rows,
    }


class _MaskComparison:
    """A denoiser, its dense results on the evaluation noises, and everything that is set against them."""

    def __init__(self, options: MaskBench) -> None:
        """Load the model and draw dense."""
        self.options, self.absent = options, list[str]()
        self._pipe = load_model(options.model, options.device)
        denoiser = denoiser_of(self._pipe, options.steps, options.guidance)
        self.plain, self.ahead = prepare(denoiser), prepare(denoiser, forecast=True)
        self.seeds = [EVALUATION_SEEDS + i for i in range(options.noises)]
        scale = "own" if options.guidance is None else f"{options.guidance:g}"
        label = f"{Path(options.model).stem}-{options.steps}-g{scale}"
        self.trainer = MaskTrainer(denoiser, label, options.masks, options.passes, options.batch)
        with frozen(denoiser.network):
            dense = self.plain.rollout(self.seeds)
        self.reference = icon_reference(dense) if options.model.startswith("demo") else DenseReference(dense)

    def share(self, mask: Mask) -> float:
        """What a mask needs. Raises :class:`MaskError` for one of another model or number of calls."""
        ours = fitted(mask, self.plain.family, self.plain.graph)
        if ours.run.shape != self.plain.shape:
            raise MaskError(f"a mask for {len(ours.run)} calls: give masks for --steps {self.options.steps}")
        return self.plain.costs.share(ours.run)

    def row(self, target: float, name: str, runs: Sequence[np.ndarray], forecast: bool, **more: Any) -> dict[str, Any]:
        """The figures of masks bool [T, L] that were made in one way with several seeds: means, and spreads."""
        model = self.ahead if forecast else self.plain
        near = [closeness_of(model, self.reference, run, self.seeds) for run in runs]
        loss = float(np.mean([own_loss(model, run, self.seeds[:_FEW]) for run in runs]))
        title = name + (", forecast" if forecast else "")
        return {"target": target, "name": title, **_figures(near), "own_loss": loss, **more}

    def rules(self, target: float) -> list[dict[str, Any]]:
        """Rule-made masks, repeating and forecasting, and a router."""

        def refused(name: str, reason: SkipstoneError) -> None:
            self.absent.append(f"{name} at {target:.0%} ({reason})")

        ceiling = TrainSettings(target=target).ceiling
        made = {n: [run] for n, run in rule_masks(self.plain, ceiling, _profiled(), refused).items()}
        if self.options.router:
            try:
                made["router"] = [router_mask(self.plain, s) for s in self._router_settings(target)]
            except SkipstoneError as reason:
                refused("router", reason)
        return [self.row(target, name, runs, ahead) for name, runs in made.items() for ahead in (False, True)]

    def _router_settings(self, target: float) -> Iterator[TrainSettings]:
        for seed in range(self.options.seeds):
            yield TrainSettings(target=target, passes=self.options.passes, batch=self.options.batch, seed=seed)

    def form(self, target: float, form: str) -> dict[str, Any]:
        """Masks of one form of training."""
        masks = [self.trainer.mask(form, target, seed) for seed in range(self.options.seeds)]
        found = np.mean([unrectified_share(mask, target, self.plain.costs) for mask in masks], axis=0)
        title = f"trained: {form}"
        return self.row(target, title, [m.run for m in masks], masks[0].forecast, rectified=found.tolist())

    def fewer_steps(self, target: float) -> list[dict[str, Any]]:
        """The dense model with as many steps as fit, rounded down and up."""
        most = TrainSettings(target=target).ceiling * self.options.steps
        return [self._dense(target, steps) for steps in sorted({int(most), int(np.ceil(most - 1e-9))}) if steps]

    def _dense(self, target: float, steps: int) -> dict[str, Any]:
        fewer: MaskedModel = replace(self.plain, denoiser=denoiser_of(self._pipe, steps, self.options.guidance))
        near = self.reference(fewer.rollout(self.seeds), steps / self.options.steps)
        return {"target": target, "name": f"dense, {steps} steps", **_figures([near])}


def _profiled() -> list[int]:
    return [_PROFILE_SEEDS + i for i in range(_FEW)]


def _figures(near: Sequence[Closeness]) -> dict[str, Any]:
    """Means over the seeds, and standard deviations where there are several."""
    names = ("share", "rel_l2", "typical", "psnr_db", "frechet")
    values = {name: np.array([getattr(n, name) for n in near]) for name in names}
    spread = {name: float(v.std(ddof=1)) for name, v in values.items()} if len(near) > 1 else None
    return {**{name: float(v.mean()) for name, v in values.items()}, "seeds": len(near), "spread": spread}


def _nearest(share: float, targets: Sequence[float]) -> float:
    target = min(targets, key=lambda t: abs(t - share))
    if abs(target - share) > 2 * MARGIN:
        raise MaskError(f"a mask that needs {share:.1%} is near none of the targets {list(targets)}: add one")
    return target


def tables(result: Figures) -> list[Table]:
    """One table, target by target, the closest to dense first; and what rectification saved in trained masks.

    Example:
        >>> tables({"model": "demo", "steps": 20, "guidance": None, "noises": 4, "rows": []})[0].title
        "demo, 20 steps, the pipeline's guidance, 4 noises that no training used"
    """
    scale = "the pipeline's guidance" if result["guidance"] is None else f"guidance {result['guidance']:g}"
    title = f"{result['model']}, {result['steps']} steps, {scale}, {result['noises']} noises that no training used"
    ordered = sorted(result["rows"], key=lambda row: (-row["target"], row["rel_l2"]))
    header = ("target", "way", "multiply-adds", "error", "typical", "PSNR, dB", "Frechet", "L_f")
    found = [Table(title, header, tuple(map(_cells, ordered)))]
    rectified = [row for row in ordered if row.get("rectified")]
    if rectified:
        words = "Multiply-adds of masks cut at the target without regard to liveness, before and after rectification"
        lines = ((f"{r['target']:.0%}", r["name"], *(f"{x:.1%}" for x in r["rectified"])) for r in rectified)
        found.append(Table(words, ("target", "way", "before", "after"), tuple(lines)))
    return found


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    loss = f"{row['own_loss']:.4f}" if "own_loss" in row else ""
    errors = (_spread(row, "rel_l2", 4), _spread(row, "typical", 4))
    figures = (f"{row['share']:.1%}", *errors, f"{row['psnr_db']:.1f}", _spread(row, "frechet", 4))
    return (f"{row['target']:.0%}", row["name"], *figures, loss)


def _spread(row: dict[str, Any], name: str, digits: int) -> str:
    value = f"{row[name]:.{digits}f}"
    return value if not row["spread"] else f"{value} ± {row['spread'][name]:.{digits}f}"


def _bench_of(model: str) -> Bench:
    """The bench of one model: each model's tables have their own section."""
    return Bench(f"masks {Path(model).stem}", ("model", "steps", "guidance", "noises", "rows"), tables)
