"""`skipstone demo`: the shipped model draws the same icons dense and accelerated, from the same noise.

Writes `demo.png` (dense | accelerated | difference) and `demo.json`, and prints the figures as a table. Times are
medians of interleaved rounds, after rounds to warm up; the same model with as few steps as fit into our time stands beside.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..engine.accelerate import accelerate
from ..engine.meter import Report
from ..errors import RecipeError
from ..evaluate.fidelity import fidelity
from ..evaluate.macs import count_macs
from ..evaluate.timing import interleave
from ..recipe import Recipe, TokenMerge
from .classifier import accuracy, load_classifier
from .model import DemoPipeline, load_demo
from .pictures import CLASSES

DEMO_RECIPE = Recipe(
    merge=TokenMerge(threshold=0.8, checkpoints="config_3", matching="local", proportional=True), name="demo"
)
"""What the demo runs unless told otherwise: the paper's best checkpoint list with our two options on."""


@dataclass(frozen=True)
class DemoOptions:
    """Draw the demo's icons dense and accelerated, side by side, with figures."""

    recipe: Path | None = None
    """Recipe file (JSON); the demo's own recipe without one."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    steps: int = 50
    """Sampling steps (DDIM, guidance 3)."""
    seed: int = 0
    """Seed of the noise."""
    rounds: int = 3
    """Timed rounds; dense and accelerated take turns, the median counts."""
    out: Path = Path("out")
    """Folder for demo.png and demo.json."""


@dataclass(frozen=True)
class Row:
    """One way of drawing: its pictures [B, 3, 64, 64], its median seconds, its multiply-adds."""

    name: str
    pictures: Tensor
    seconds: float
    macs: float


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Run the demo and return what `demo.json` holds. Raises :class:`RecipeError` for bad options."""
    if options.steps < 2 or options.rounds < 1:
        raise RecipeError("the demo needs --steps of at least 2 and --rounds of at least 1")
    recipe = Recipe.load(options.recipe) if options.recipe else DEMO_RECIPE
    pipe = load_demo(device=options.device)
    pipe.set_progress_bar_config(disable=True)
    draw = _Drawing(pipe, options)
    rows, report = _measure(draw, recipe, options)
    result = _figures(rows, report, recipe, options)
    options.out.mkdir(parents=True, exist_ok=True)
    _save(rows, result, options.out)
    _print_table(rows, result, options.out)
    return result


class _Drawing:
    """Draws all ten classes from one noise, with any number of steps, dense or by a recipe."""

    def __init__(self, pipe: DemoPipeline, options: DemoOptions) -> None:
        self.pipe, self.options = pipe, options
        size = pipe.unet.config.sample_size
        generator = torch.Generator().manual_seed(options.seed)
        self.noise = torch.randn(len(CLASSES), pipe.unet.config.in_channels, size, size, generator=generator)
        self.report = Report()

    def dense(self, steps: int) -> Tensor:
        """Pictures [10, 3, 64, 64] in 0..1."""
        labels, noise = torch.arange(len(CLASSES)), self.noise.to(self.options.device)
        return self.pipe(labels, steps, latents=noise, output_type="pt", return_dict=False)[0].cpu()

    def accelerated(self, recipe: Recipe) -> Tensor:
        """The same pictures, by the recipe; leaves its report."""
        with accelerate(self.pipe, recipe) as handle:
            pictures = self.dense(self.options.steps)
            self.report = handle.report()
        return pictures

    def macs_per_call(self) -> int:
        """Multiply-adds of one dense call of the network, guidance included."""
        unet, noise = self.pipe.unet, self.noise.to(self.options.device)
        prompts = self.pipe.class_table(torch.arange(2 * len(CLASSES), device=noise.device) % len(CLASSES))
        return count_macs(lambda: unet(torch.cat([noise, noise]), 500, encoder_hidden_states=prompts))


def _measure(draw: _Drawing, recipe: Recipe, options: DemoOptions) -> tuple[list[Row], Report]:
    """Dense, accelerated, and as many dense steps as fit into the accelerated time."""
    ways: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: draw.dense(options.steps),
        "Skipstone": lambda: draw.accelerated(recipe),
    }
    pictures, first = {}, {}
    for name, way in ways.items():
        started = perf_counter()
        pictures[name] = way()
        first[name] = perf_counter() - started
    fewer = max(2, round(options.steps * min(1.0, first["Skipstone"] / first["dense"])))
    name = f"dense, {fewer} steps"
    ways[name] = lambda: draw.dense(fewer)
    pictures[name] = ways[name]()
    times = interleave(ways, options.rounds)
    per_call, report = draw.macs_per_call(), draw.report
    macs = {"dense": per_call * options.steps, name: per_call * fewer}
    macs["Skipstone"] = macs["dense"] - (report.macs_dense - report.macs_done)
    return [Row(way, pictures[way], times[way].median, macs[way]) for way in ways], report


def _figures(rows: list[Row], report: Report, recipe: Recipe, options: DemoOptions) -> dict[str, Any]:
    dense, ours, fewer = rows
    close, control = fidelity(ours.pictures, dense.pictures), fidelity(fewer.pictures, dense.pictures)
    judge, labels = load_classifier(), torch.arange(len(CLASSES))
    return {
        "time_ratio": dense.seconds / ours.seconds,
        "macs_ratio": dense.macs / ours.macs,
        "psnr_db": _finite(close.psnr_db),
        "ssim": close.ssim,
        "tokens_merged_share": report.merged_share,
        "seed": options.seed,
        "device": options.device,
        "recipe": recipe.to_dict(),
        "steps": options.steps,
        "rounds": options.rounds,
        "seconds": {row.name: row.seconds for row in rows},
        "macs": {row.name: row.macs for row in rows},
        "readable": {row.name: accuracy(judge, row.pictures, labels) for row in rows},
        "fewer_steps": {"name": fewer.name, "psnr_db": _finite(control.psnr_db), "ssim": control.ssim},
        "machine": {"torch": torch.__version__, "threads": torch.get_num_threads()},
        "report": report.to_dict(),
    }


def _finite(decibels: float) -> float | None:
    """JSON has no infinity: equal pictures have no PSNR."""
    return decibels if isfinite(decibels) else None


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"


def _save(rows: list[Row], result: dict[str, Any], out: Path) -> None:
    from .sheet import comparison

    captions = [
        f"dense  {rows[0].seconds:.1f} s",
        f"Skipstone  {rows[1].seconds:.1f} s  ({result['time_ratio']:.2f}x)",
        f"difference x4  ({_decibels(result['psnr_db'])} dB)",
    ]
    comparison(rows[0].pictures, rows[1].pictures, captions, CLASSES).save(out / "demo.png")
    (out / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _print_table(rows: list[Row], result: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    fidelities = [
        ("-", "-"),
        *((_decibels(of["psnr_db"]), f"{of['ssim']:.4f}") for of in (result, result["fewer_steps"])),
    ]
    table = Table(title=f"Ten icons, {result['steps']} DDIM steps with guidance, on {result['device']}")
    for heading in ("", "seconds", "times faster", "GMAC", "PSNR to dense, dB", "SSIM to dense", "readable"):
        table.add_column(heading, justify="right" if heading else "left")
    for row, close in zip(rows, fidelities, strict=True):
        speed, readable = rows[0].seconds / row.seconds, result["readable"][row.name]
        table.add_row(
            row.name, f"{row.seconds:.2f}", f"{speed:.2f}", f"{row.macs / 1e9:.0f}", *close, f"{readable:.0%}"
        )
    console = Console()
    console.print(table)
    console.print(
        f"{result['tokens_merged_share']:.0%} of the served tokens merged; wrote {out / 'demo.png'} and {out / 'demo.json'}"
    )
