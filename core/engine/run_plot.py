"""Draws a run: a bar for each call, coloured by what ran, and below it rows of what else is known of each call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..plan.heatmap import INK, PAPER, lettering
from .run_log import CallEntry, RunLog

if TYPE_CHECKING:
    from typing import TypeAlias

    from PIL import Image, ImageDraw, ImageFont

    Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLOURS = {"full": (38, 104, 140), "partly": (120, 170, 196), "forecast": (214, 226, 232)}
_WIDTH, _TOP, _BARS, _ROW, _FOOT, _MARGIN = 960, 76, 240, 62, 84, 72
_SIZE = 18
_LOW = 26
"""Height of a row's highest bar."""
_SLOWEST = 2.0
"""Bars end at this many times the second-slowest call: the first call may load the model."""


@dataclass(frozen=True)
class _Row:
    """A value of each call, drawn as low bars below the times.

    Args:
        caption: above the bars, with the largest value.
        values: by call; None where it is not known.
        colour: of the bars.
    """

    caption: str
    values: list[float | None]
    colour: tuple[int, int, int]


def rows(calls: list[CallEntry]) -> list[_Row]:
    """What is known of the calls beside what ran.

    Args:
        calls: of the run.

    Example:
        >>> [row.caption for row in rows([CallEntry(0.0, tokens=8, kept=6)])]
        ['tokens merged or pruned: up to 25%']
    """
    merged, held = max(entry.merged for entry in calls), max(entry.held for entry in calls)
    errors = [entry.error for entry in calls if entry.error is not None]
    error = f"error of the forecast, compared where the model ran: up to {max(errors, default=0.0):.3f}"
    found = [
        _Row(f"tokens merged or pruned: up to {merged:.0%}", [entry.merged for entry in calls], (188, 92, 54)),
        _Row(error, [entry.error for entry in calls], (168, 54, 92)),
        _Row(f"held: up to {held / 2**20:.1f} MiB", [entry.held for entry in calls], (110, 124, 92)),
    ]
    return [row for row, known in zip(found, (merged, errors, held), strict=True) if known]


def run_plot(log: RunLog, title: str, typeface: str = "") -> Image.Image:
    """Draw the calls of a run.

    Args:
        log: with at least one call.
        title: a line above.
        typeface: see :func:`lettering`.

    Example:
        >>> run_plot(RunLog([CallEntry(0.0, 0.5), CallEntry(0.5, 0.1, forecast=True)]), "two calls").size
        (960, 400)
    """
    from PIL import Image, ImageDraw

    below = rows(log.calls)
    plot = Image.new("RGB", (_WIDTH, _TOP + _BARS + _ROW * len(below) + _FOOT), PAPER)
    draw, font = ImageDraw.Draw(plot), lettering(_SIZE, typeface)
    draw.text((_MARGIN // 3, 16), _fitting(title, font), fill=INK, font=font)
    _bars(draw, font, log.calls, plot.height - _FOOT + 8)
    for place, row in enumerate(below):
        _row(draw, font, row, _TOP + _BARS + place * _ROW)
    _legend(draw, font, plot.height - 30, log.calls)
    return plot


def _fitting(text: str, font: Font) -> str:
    """The text, cut at a word where it is too long for the picture."""
    while font.getlength(text) > _WIDTH - _MARGIN:
        text = text.removesuffix(" …").rpartition(" ")[0] + " …"
    return text


def _place(number: int, count: int) -> tuple[float, float]:
    """Left and right of a call's column."""
    width = (_WIDTH - _MARGIN - 24) / count
    gap = min(4.0, width / 6)
    return _MARGIN + number * width, _MARGIN + (number + 1) * width - gap


def _bars(draw: ImageDraw.ImageDraw, font: Font, calls: list[CallEntry], foot: int) -> None:
    times = sorted(entry.seconds for entry in calls)
    highest = max(1e-9, min(times[-1], _SLOWEST * times[-2] if len(times) > 1 else times[-1]))
    floor = _TOP + _BARS
    draw.text((_MARGIN - 8, _TOP), f"{highest:.2g} s", fill=INK, font=font, anchor="rm")
    draw.text((_MARGIN - 8, floor), "0", fill=INK, font=font, anchor="rm")
    every = max(1, -(-len(calls) // 14))
    for number, entry in enumerate(calls):
        left, right = _place(number, len(calls))
        height = max(3.0, _BARS * min(1.0, entry.seconds / highest))
        draw.rectangle((left, floor - height, right, floor), fill=COLOURS[entry.ran])
        if number % every == 0:
            draw.text(((left + right) / 2, foot), str(number + 1), fill=INK, font=font, anchor="mt")


def _row(draw: ImageDraw.ImageDraw, font: Font, row: _Row, top: int) -> None:
    draw.text((_MARGIN, top + 8), row.caption, fill=INK, font=font)
    floor, most = top + _ROW, max(value or 0.0 for value in row.values) or 1.0
    for number, value in enumerate(row.values):
        left, right = _place(number, len(row.values))
        if value is not None:
            draw.rectangle((left, floor - max(1.0, _LOW * value / most), right, floor), fill=row.colour)


def _legend(draw: ImageDraw.ImageDraw, font: Font, y: int, calls: list[CallEntry]) -> None:
    x = _MARGIN
    words = {"full": "ran in full", "partly": "ran partly", "forecast": "forecast"}
    shown = [(COLOURS[ran], f"{words[ran]}: {count}") for ran in words if (count := sum(c.ran == ran for c in calls))]
    for colour, text in shown:
        draw.rectangle((x, y - 8, x + 16, y + 8), fill=colour)
        draw.text((x + 24, y), text, fill=INK, font=font, anchor="lm")
        x += 56 + int(font.getlength(text))
