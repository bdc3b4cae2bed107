"""`skipstone demo`: the shipped model draws the same icons dense and accelerated, from the same noise.

Writes `demo.png` and `demo.json`, and prints the figures as a table: dense, 2.5x by Auto, fewer steps at the same cost, token
merging, a mask. Times are medians of interleaved rounds, after a round to warm up. The same model with as many steps as fit
into the time of token merging is the control. The picture's last row is what the flow model draws of captions.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ...core.engine.report import Report
from ...core.recipe.auto import Auto
from ...core.recipe.block_skip import BlockSkip
from ...core.recipe.recipe import Recipe
from ...core.recipe.token_merge import TokenMerge
from ..demo_models.model import load_demo, profile_of
from ..demo_models.pictures import CLASSES
from .figures import Figures, figures_of, keep, show
from .flow import flow_sheet
from .options import DemoOptions
from .sheet import contact_sheet, difference, stacked
from .ways import Drawing, Measured, Way, measure

DEMO_RECIPE = Recipe(
    merge=TokenMerge(threshold=0.8, checkpoints="config_3", matching="local", proportional=True), name="demo"
)
"""The demo's recipe unless one is given: the paper's best checkpoint list with our two options on."""
SPEEDUP = 2.5
_AUTO, _MERGING, _MASK = f"{SPEEDUP:g}x (Auto)", "token merging", "mask (DeepCache)"


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Run the demo. Returns what its JSON file holds. Raises :class:`RecipeError` for a recipe that cannot be read.

    Example:
        >>> from pathlib import Path
        >>> run_demo(DemoOptions(recipe=Path("no such file.json")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: ...
    """
    recipe = Recipe.load(options.recipe) if options.recipe else DEMO_RECIPE
    rows = measure(Drawing(load_demo(device=options.device), options.seed), _ways(options, recipe), options.rounds, 3)
    figures = figures_of(rows)
    reports = {row.way.name: row.report for row in rows}
    report = reports[_MERGING]
    result = _result(figures, report, recipe, options)
    sheet = stacked(contact_sheet(_strips(rows, figures), CLASSES), flow_sheet(options.device, options.seed))
    wrote = keep(options.out, "demo", sheet, result)
    title = f"Ten icons, {options.calls} DDIM steps with guidance, on {options.device}"
    said = (f"{name}: {reports[name].headline()}" for name in (_AUTO, _MERGING, _MASK))
    show(title, figures, *said, wrote, leave_out=["error"])
    return result


def _ways(options: DemoOptions, recipe: Recipe) -> list[Way]:
    steps, fewer = options.calls, max(1, round(options.calls / SPEEDUP))
    auto = Auto(speedup=SPEEDUP, profile=profile_of("unet", steps))
    return [
        Way("dense", steps),
        Way(_AUTO, steps, Recipe(auto=auto)),
        Way(f"dense, {fewer} steps", fewer),
        Way(_MERGING, steps, recipe),
        Way(_MASK, steps, Recipe(skip=BlockSkip(every=2, forecast=True, last_full=True))),
    ]


def _result(figures: dict[str, Figures], report: Report, recipe: Recipe, options: DemoOptions) -> dict[str, Any]:
    ours, (fewer, control) = figures[_MERGING], _fewer(figures)[-1]
    named = {"Skipstone" if name == _MERGING else name: one for name, one in figures.items()}
    return {
        **{name: getattr(ours, name) for name in ("time_ratio", "macs_ratio", "psnr_db", "ssim")},
        "tokens_merged_share": report.merged_share,
        "seed": options.seed,
        "device": options.device,
        "recipe": recipe.to_dict(),
        "steps": options.calls,
        "rounds": options.rounds,
        "ways": [_way(name, one) for name, one in figures.items()],
        **{of: {name: asdict(one)[of] for name, one in named.items()} for of in ("seconds", "macs", "readable")},
        "fewer_steps": {"name": fewer, "psnr_db": control.psnr_db, "ssim": control.ssim},
        "machine": {"torch": torch.__version__, "threads": torch.get_num_threads()},
        "report": report.to_dict(),
    }


def _fewer(figures: dict[str, Figures]) -> list[tuple[str, Figures]]:
    """The dense rows with fewer steps: at the cost of Auto, and in the time of token merging; one where both are the same."""
    return [(name, one) for name, one in figures.items() if name.startswith("dense, ")]


def _way(name: str, figures: Figures) -> dict[str, Any]:
    kept = asdict(figures)
    return {
        "name": name,
        "calls": kept["calls"],
        **{k: kept[k] for k in ("macs_ratio", "time_ratio", "psnr_db", "ssim")},
    }


def _strips(rows: list[Measured], figures: dict[str, Figures]) -> list[tuple[str, torch.Tensor]]:
    """The dense pictures, then each way's and how far they are from the dense ones."""
    dense, *others = rows
    strips = [(f"dense  {dense.seconds:.1f} s", dense.pictures)]
    at_same_cost, *_ = _fewer(figures)
    for row in others:
        one = figures[row.way.name]
        if row.way.name.startswith("dense") and row.way.name != at_same_cost[0]:
            continue
        strips.append((f"{row.way.name}  {one.seconds:.1f} s  ({one.time_ratio:.2f}x)", row.pictures))
        strips.append((f"difference x4  ({one.decibels} dB)", difference(row.pictures, dense.pictures)))
    return strips
