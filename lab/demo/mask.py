"""`skipstone demo --mask`: train a mask on the small DiT and draw by it, beside FORA and fewer steps.

Writes `demo_mask.png` (dense, then each way and its difference), `demo_mask.json`, and in the folder `demo_mask` the mask with
its heat-map and the training's curves. The noise of the ten icons is used in no training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from ...core.calibrate.masks.baselines import interval_mask
from ...core.calibrate.masks.masked_model import prepare
from ...core.calibrate.masks.seeds import EVALUATION_SEEDS
from ...core.calibrate.masks.settings import TrainSettings
from ...core.calibrate.masks.trainer import Trained
from ...core.errors import RecipeError
from ...core.measure.timing import machine
from ...core.recipe.block_skip import BlockSkip
from ...core.recipe.mask import Mask
from ...core.recipe.recipe import Recipe
from ...pipelines.denoiser import denoiser_of
from ..demo_models.model import load_demo
from ..demo_models.pictures import CLASSES
from ..demo_models.pipeline import IconPipeline
from .figures import Figures, figures_of, keep, show
from .options import DemoOptions
from .sheet import contact_sheet, difference
from .ways import Drawing, Measured, Way, measure

NAME = "demo_mask"
OURS, FORA = "trained mask", "FORA"
TRAINING = TrainSettings(target=0.5, passes=5, refine_batch=8)
"""The default form of training, for half of the multiply-adds, on so few samples that two cores need a few minutes."""


Train = Callable[[DemoOptions, TrainSettings, Path], Trained]
"""Trains a mask on the small DiT and writes it, with its curves, into a folder."""


def run_mask_demo(options: DemoOptions, train: Train) -> dict[str, Any]:
    """Train, draw, and show the figures.

    Args:
        options: of the command.
        train: trains a mask and writes it into a folder.

    Returns what `demo_mask.json` holds. Raises :class:`RecipeError` for options that cannot run.

    Example:
        >>> run_mask_demo(DemoOptions(mask=True, seed=-1), train=lambda options, settings, folder: None)
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: --seed -1 is not in [0, 2147483648): ...
    """
    settings, seed, folder = _training_of(options), noise_seed(options.seed), options.out / NAME
    started = perf_counter()
    trained = train(options, settings, folder)
    seconds = perf_counter() - started
    print(f"trained in {seconds:.0f} s; now drawing, all ways in turns")
    pipe = load_demo("dit", device=options.device)
    ways = _ways(pipe, folder, settings.ceiling, options.calls)
    rows = measure(Drawing(pipe, seed), ways, options.rounds)
    figures = figures_of(rows)
    result = _result(figures, trained, seconds, options)
    wrote = keep(options.out, NAME, contact_sheet(_strips(rows, figures), CLASSES), result)
    title = f"Ten icons, {options.calls} DDIM steps with guidance, on {options.device}"
    show(title, figures, f"{wrote}, the mask and its training in {folder}")
    return result


def _training_of(options: DemoOptions) -> TrainSettings:
    """How the mask is trained. Raises :class:`RecipeError` for settings that cannot be."""
    given: dict[str, Any] = {"target": options.target, "passes": options.passes}
    return replace(TRAINING, **{name: value for name, value in given.items() if value is not None})


def noise_seed(seed: int) -> int:
    """The seed of the icons' noise, among those that no training uses. Raises :class:`RecipeError` for a seed out of range.

    Example:
        >>> noise_seed(1) - noise_seed(0)
        1
    """
    if not 0 <= seed < EVALUATION_SEEDS:
        raise RecipeError(f"--seed {seed} is not in [0, {EVALUATION_SEEDS}): other noises may have been trained on")
    return EVALUATION_SEEDS + seed


def _fora_mask(pipe: IconPipeline, steps: int, share: float) -> Mask:
    """FORA at a share of the multiply-adds: evenly spaced full calls, the cache repeated between them."""
    model = prepare(denoiser_of(pipe, steps))
    return model.mask(interval_mask(model, share))


def _ways(pipe: IconPipeline, folder: Path, share: float, steps: int) -> list[Way]:
    masks = {OURS: Mask.load(folder / "mask.safetensors"), FORA: _fora_mask(pipe, steps, share)}
    by_mask = [Way(name, steps, Recipe(skip=BlockSkip(mask=mask))) for name, mask in masks.items()]
    return [Way("dense", steps), *by_mask]


def _result(figures: dict[str, Figures], trained: Trained, seconds: float, options: DemoOptions) -> dict[str, Any]:
    settings = _training_of(options)
    return {
        "rows": {name: asdict(one) for name, one in figures.items()},
        "target": settings.share,
        "share": trained.mask.provenance["share"],
        "training": {"seconds": seconds, "stopped": trained.stopped, "settings": settings.to_dict()},
        "seed": options.seed,
        "noise_seed": noise_seed(options.seed),
        "device": options.device,
        "steps": options.calls,
        "rounds": options.rounds,
        "machine": machine(options.device),
    }


def _strips(rows: list[Measured], figures: dict[str, Figures]) -> list[tuple[str, Tensor]]:
    """The dense pictures, then each way's and its difference."""
    dense, *others = rows
    strips = [(f"dense, {dense.way.steps} steps  {dense.seconds:.1f} s  {_gmac(dense)}", dense.pictures)]
    for row in others:
        one, apart = figures[row.way.name], difference(row.pictures, dense.pictures)
        strips.append((f"{row.way.name}  {row.seconds:.1f} s  ({one.time_ratio:.2f}x)  {_gmac(row)}", row.pictures))
        strips.append((f"difference x4  ({one.decibels} dB, error {one.error:.3f})", apart))
    return strips


def _gmac(row: Measured) -> str:
    return f"{row.macs / 1e9:.0f} GMAC"
