"""Draws the pictures of the nodes' help pages with the shipped models.

`python -m skipstone.tools.help_pictures [NODE ...]` writes `web/docs/img/NODE.webp`, by default for all of
:data:`skipstone.tools.figure_list.FIGURES`. One of them needs a mask, which is trained first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFont

from ..core.calibrate.masks.settings import TrainSettings
from ..core.calibrate.masks.trainer import train
from ..core.engine.report import Report
from ..core.measure.fidelity import fidelity
from ..core.models import recognise
from ..core.plan.block_plan import even_timesteps, graph_of, rule_mask
from ..core.plan.liveness import State, liveness
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import load_mask
from ..core.recipe.presets import as_recipe
from ..core.recipe.recipe import Recipe
from ..lab.demo_models.model import load_demo
from ..pipelines.accelerate import accelerate
from ..pipelines.denoiser import denoiser_of
from .figure_list import FIGURES, STEPS, TRAINED, Bars, Drawn, Map, Page, Row, Wiped

FOLDER = Path(__file__).resolve().parents[1] / "web/docs/img"
WIDTH, GAP, LINE = 600, 10, 44
_NIGHT, _WHITE, _SHEET, _INK = (20, 24, 44), (250, 246, 238), (250, 246, 238), (40, 40, 48)
_RUN, _REUSE, _DEAD = (64, 170, 190), (44, 74, 104), (32, 36, 58)
_SIZE = 28
_WORDS = {_RUN: "runs", _REUSE: "reused", _DEAD: "not needed"}


@dataclass(frozen=True)
class Result:
    """Pictures, and what was counted while they were drawn.

    Args:
        pictures: 64 x 64.
        report: of the run; None where nothing was accelerated.
        work: share of the network's work that each call did.
        seconds: each call's.
    """

    pictures: Sequence[Image.Image]
    report: Report | None
    work: Sequence[float]
    seconds: Sequence[float] = field(default_factory=tuple)


@cache
def _pipe(kind: str) -> Any:
    pipe = load_demo(kind)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def _trained() -> BlockSkip:
    """A mask of the small DiT for half of the work."""
    settings = TrainSettings(target=0.5, passes=1, refine_batch=2, batch=2, profile_batch=2)
    return BlockSkip(mask=train(denoiser_of(_pipe("dit"), STEPS), settings).mask)


def _settings(given: Any) -> Any:
    return _trained() if given == TRAINED else given


def _recipe(given: Any) -> Recipe:
    return Recipe.of(list(given)) if isinstance(given, tuple) else as_recipe(_settings(given))


@cache
def drawn(kind: str, given: Any, prompts: tuple[str, ...]) -> Result:
    """Draw with a shipped model.

    Args:
        kind: of the model.
        given: what accelerates it; None for nothing.
        prompts: one a picture.
    """
    pipe, noise = _pipe(kind), torch.Generator().manual_seed(7)
    began: list[float] = []
    hook = pipe.network.register_forward_pre_hook(lambda *_: began.append(time.perf_counter()))
    with hook, accelerate(pipe, _recipe(given)) if given else nullcontext() as handle:
        pictures = pipe(list(prompts), num_inference_steps=STEPS, generator=noise).images
        report = handle.report() if handle else None
    seconds = np.diff([*began, time.perf_counter()])
    return Result(pictures, report, _work(kind, given, report), tuple(seconds))


def _work(kind: str, given: Any, report: Report | None) -> list[float]:
    """Share of the blocks that run in each call."""
    if report is None:
        return [1.0] * STEPS
    if report.calls_forecast:
        keys = report.chosen["keys"] if report.chosen else _keys(report)
        return [float(call in keys) for call in range(STEPS)]
    skip = _recipe(given).skip
    return list((_states(kind, skip) == State.RUN).mean(axis=1)) if skip else [1.0] * STEPS


def _keys(report: Report) -> Sequence[int]:
    """Calls that ran, where they are evenly spaced."""
    return np.linspace(0, STEPS - 1, report.calls_run).round().astype(int).tolist()


def _states(kind: str, settings: BlockSkip) -> np.ndarray:
    network = _pipe(kind).network
    family = recognise(network)
    graph = graph_of(settings, family, network)
    mask = load_mask(settings)
    times = mask.timesteps if mask else even_timesteps(STEPS)
    return liveness(rule_mask(settings, graph, family.name, times).run, graph)[:, list(graph.masked)]


# drawing


def figure(rows: Sequence[Row]) -> Image.Image:
    """All rows of a figure, one below the other.

    Args:
        rows: at least one.
    """
    parts = [row_of(row) for row in rows]
    height = GAP + sum(part.height + GAP for part in parts)
    made = Image.new("RGB", (WIDTH, height), _NIGHT)
    top = GAP
    for part in parts:
        made.paste(part, (0, top))
        top += part.height + GAP
    return made


@singledispatch
def row_of(row: Any) -> Image.Image:
    """Draw a row.

    Args:
        row: of a figure.
    """
    raise TypeError(f"no drawing of {type(row).__name__}")


def _blank(height: int, label: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A row of a height below its label."""
    made = Image.new("RGB", (WIDTH, LINE + height), _NIGHT)
    draw = ImageDraw.Draw(made)
    draw.text((GAP, LINE // 2 - 2), label, fill=_WHITE, font=ImageFont.load_default(_SIZE), anchor="lm")
    return made, draw


@row_of.register
def _(row: Drawn) -> Image.Image:
    result = drawn(row.kind, row.recipe, row.prompts)
    side = (WIDTH - GAP * (len(row.prompts) + 1)) // len(row.prompts)
    strip = 26
    made, draw = _blank(side + GAP + strip, row.label.format(**_counted(result)))
    for place, picture in enumerate(result.pictures):
        made.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (GAP + place * (side + GAP), LINE))
    width = (WIDTH - 2 * GAP) / STEPS
    for call, work in enumerate(result.work):
        left, top = GAP + call * width, LINE + side + GAP
        draw.rounded_rectangle((left + 1, top, left + width - 3, top + strip - 1), 6, fill=_blend(work))
    return made


def _blend(work: float) -> tuple[int, ...]:
    return tuple(round(low + work * (high - low)) for low, high in zip(_REUSE, _RUN, strict=True))


def _counted(result: Result) -> dict[str, str]:
    report = result.report or Report(calls=STEPS)
    share = report.block_macs_run / report.block_macs_all if report.block_macs_all else 1.0
    return {"run": str(report.calls_run), "merged": f"{report.merged_share:.0%}", "left": f"{share:.0%}"}


@row_of.register
def _(row: Map) -> Image.Image:
    states = _states(row.kind, _settings(row.mask))
    calls, blocks = states.shape
    width, height = (WIDTH - 2 * GAP) / calls, min(24, 230 // blocks)
    below = LINE if row.legend else 0
    made, draw = _blank(blocks * height + below, row.label.format(run=f"{(states == State.RUN).mean():.0%}"))
    colours = {State.RUN: _RUN, State.REUSE: _REUSE, State.DEAD: _DEAD}
    for (call, block), state in np.ndenumerate(states):
        left, top = GAP + call * width, LINE + block * height
        draw.rectangle((left, top, left + width - 2, top + height - 2), fill=colours[State(int(state))])
    if row.legend:
        _legend(draw, LINE + blocks * height + LINE // 2 + 4, _WORDS)
    return made


def _legend(draw: ImageDraw.ImageDraw, y: int, words: Mapping[tuple[int, int, int], str]) -> None:
    x, font = GAP, ImageFont.load_default(_SIZE - 4)
    for colour, word in words.items():
        draw.rectangle((x, y - 11, x + 22, y + 11), fill=colour, outline=_REUSE)
        draw.text((x + 30, y), word, fill=_WHITE, font=font, anchor="lm")
        x += 56 + int(font.getlength(word))


@row_of.register
def _(row: Page) -> Image.Image:
    name, *lines = row.lines
    made, draw = _blank(60 + 36 * len(lines), row.label)
    right, bottom, fold = WIDTH - 6 * GAP, made.height - 1, 28
    draw.polygon(
        [(6 * GAP, LINE), (right - fold, LINE), (right, LINE + fold), (right, bottom), (6 * GAP, bottom)], fill=_SHEET
    )
    draw.polygon([(right - fold, LINE), (right, LINE + fold), (right - fold, LINE + fold)], fill=_REUSE)
    for place, text in enumerate((name, *lines)):
        font = ImageFont.load_default(_SIZE if not place else _SIZE - 4)
        draw.text((8 * GAP, LINE + 30 + 36 * place), text, fill=_INK, font=font, anchor="lm")
    return made


@row_of.register
def _(row: Wiped) -> Image.Image:
    (one,), (other,) = (drawn("flow", given, (row.prompt,)).pictures for given in (None, row.recipe))
    close = fidelity(*(_tensor(picture) for picture in (other, one)))
    side = (WIDTH - 3 * GAP) // 2
    text = row.label.format(psnr=f"{close.psnr_db:.1f}", ssim=f"{close.ssim:.3f}")
    made, draw = _blank(side, text)
    wiped = other.copy()
    wiped.paste(one.crop((0, 0, one.width // 2, one.height)), (0, 0))
    apart = ImageChops.difference(one, other).point(lambda value: min(255, 5 * value))
    for place, picture in enumerate((wiped, apart)):
        made.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (GAP + place * (side + GAP), LINE))
    middle = GAP + side // 2
    draw.rectangle((middle - 1, LINE, middle + 1, LINE + side), fill=_WHITE)
    return made


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).movedim(-1, 0)[None]


@row_of.register
def _(row: Bars) -> Image.Image:
    result = drawn("flow", row.recipe, Drawn("").prompts)
    high = 180
    made, draw = _blank(high + LINE, row.label.format(**_counted(result)))
    width, ran = (WIDTH - 2 * GAP) / STEPS, iter(result.seconds)
    took = [next(ran) if work else 0.0 for work in result.work]
    for call, seconds in enumerate(took):
        left, floor = GAP + call * width, LINE + high
        colour = _RUN if seconds else _REUSE
        draw.rectangle((left + 1, floor - max(5, high * seconds / max(took)), left + width - 3, floor), fill=colour)
    _legend(draw, LINE + high + LINE // 2 + 4, {_RUN: "ran in full", _REUSE: "forecast"})
    return made


def main() -> None:
    """Write the pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted: Callable[[str], bool] = (lambda name: name in sys.argv[1:]) if sys.argv[1:] else bool
    for name in filter(wanted, FIGURES):
        path = FOLDER / f"{name}.webp"
        figure(FIGURES[name].rows).save(path, quality=82, method=6)
        print(name, path.stat().st_size)


if __name__ == "__main__":
    main()
