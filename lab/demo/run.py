"""`skipstone demo`: the shipped model draws the same icons dense and accelerated, from the same noise.

Writes `demo.png` (dense | accelerated | difference) and `demo.json`, and prints the figures as a table. Times are
medians of interleaved rounds, after a round to warm up. The same model with as many steps as fit into the accelerated run's
time is the control.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ...core.engine.report import Report
from ...core.recipe.recipe import Recipe
from ...core.recipe.token_merge import TokenMerge
from ..demo_models.model import load_demo
from ..demo_models.pictures import CLASSES
from .figures import Figures, figures_of, keep, show
from .options import DemoOptions
from .sheet import contact_sheet, difference
from .ways import Drawing, Measured, Way, measure

DEMO_RECIPE = Recipe(
    merge=TokenMerge(threshold=0.8, checkpoints="config_3", matching="local", proportional=True), name="demo"
)
"""The demo's recipe unless one is given: the paper's best checkpoint list with our two options on."""


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Run the demo. Returns what its JSON file holds. Raises :class:`RecipeError` for a recipe that cannot be read.

    Example:
        >>> from pathlib import Path
        >>> run_demo(DemoOptions(recipe=Path("no such file.json")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: ...
    """
    recipe = Recipe.load(options.recipe) if options.recipe else DEMO_RECIPE
    ways = [Way("dense", options.calls), Way("Skipstone", options.calls, recipe)]
    rows = measure(Drawing(load_demo(device=options.device), options.seed), ways, options.rounds)
    figures, report = figures_of(rows), rows[1].report
    result = _result(figures, report, recipe, options)
    wrote = keep(options.out, "demo", contact_sheet(_strips(rows, figures), CLASSES), result)
    title = f"Ten icons, {options.calls} DDIM steps with guidance, on {options.device}"
    show(title, figures, f"{report.merged_share:.0%} of the served tokens merged; {wrote}", leave_out=["error"])
    return result


def _result(figures: dict[str, Figures], report: Report, recipe: Recipe, options: DemoOptions) -> dict[str, Any]:
    ours, (fewer, control) = figures["Skipstone"], list(figures.items())[-1]
    return {
        **{name: getattr(ours, name) for name in ("time_ratio", "macs_ratio", "psnr_db", "ssim")},
        "tokens_merged_share": report.merged_share,
        "seed": options.seed,
        "device": options.device,
        "recipe": recipe.to_dict(),
        "steps": options.calls,
        "rounds": options.rounds,
        **{of: {name: asdict(one)[of] for name, one in figures.items()} for of in ("seconds", "macs", "readable")},
        "fewer_steps": {"name": fewer, "psnr_db": control.psnr_db, "ssim": control.ssim},
        "machine": {"torch": torch.__version__, "threads": torch.get_num_threads()},
        "report": report.to_dict(),
    }


def _strips(rows: list[Measured], figures: dict[str, Figures]) -> list[tuple[str, torch.Tensor]]:
    dense, ours = figures["dense"], figures["Skipstone"]
    return [
        (f"dense  {dense.seconds:.1f} s", rows[0].pictures),
        (f"Skipstone  {ours.seconds:.1f} s  ({ours.time_ratio:.2f}x)", rows[1].pictures),
        (f"difference x4  ({ours.decibels} dB)", difference(rows[1].pictures, rows[0].pictures)),
    ]
