"""Draws a mask: calls from left to right, blocks from top to bottom. Needs Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .liveness import State

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

COLOURS = {State.RUN: (38, 104, 140), State.REUSE: (198, 222, 230), State.DEAD: (246, 240, 228)}
WORDS = {State.RUN: "runs", State.REUSE: "reused", State.DEAD: "not needed"}
PAPER, INK = (255, 255, 255), (40, 40, 48)
"""Colours of all drawings: the ground, and lines and letters."""
_GRID = PAPER
_CELL = 14
_MARGIN = 10
_FONT_SIZE = 11


def lettering(size: int, typeface: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The letters of a drawing.

    Args:
        size: in pixels.
        typeface: path of a TrueType file; Pillow's own by default, which has one size before Pillow 10.1.

    Example:
        >>> lettering(20).getlength("ab") > lettering(10).getlength("ab")
        True
    """
    from PIL import ImageFont

    if typeface:
        return ImageFont.truetype(typeface, size)
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()


def heatmap(states: np.ndarray, blocks: Sequence[str], title: str, typeface: str = "") -> Image.Image:
    """Draw the states of a plan, with title, block names, call numbers and legend.

    Args:
        states: int8 [T, L], a :class:`State` per call and block.
        blocks: names of the L blocks.
        title: text above the picture.
        typeface: see :func:`lettering`.

    Example:
        >>> heatmap(np.array([[2, 2], [1, 2]]), ("a", "b"), "two calls").mode
        'RGB'
    """
    from PIL import Image, ImageDraw

    calls, count = states.shape
    font = lettering(_FONT_SIZE, typeface)
    # Cells are square; the left margin fits the longest block name.
    left = _MARGIN * 2 + max((int(font.getlength(b)) for b in blocks), default=0)
    width = max(left + calls * _CELL + _MARGIN, int(font.getlength(title)) + 2 * _MARGIN, 360)
    top = 2 * _MARGIN + 2 * _FONT_SIZE
    image = Image.new("RGB", (width, top + count * _CELL + 5 * _MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN // 2), title, fill=INK, font=font)
    for k in range(0, calls, 5):  # every fifth call number: more would overlap
        draw.text((left + k * _CELL + _CELL // 2, top - _FONT_SIZE - 3), str(k), fill=INK, font=font, anchor="mt")
    for i, name in enumerate(blocks):
        y = top + i * _CELL
        draw.text((left - _MARGIN // 2, y + _CELL // 2), name, fill=INK, font=font, anchor="rm")
        for k in range(calls):
            box = (left + k * _CELL, y, left + (k + 1) * _CELL, y + _CELL)
            draw.rectangle(box, fill=COLOURS[State(int(states[k, i]))], outline=_GRID)
    _legend(draw, font, left, top + count * _CELL + _MARGIN)
    return image


def _legend(draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, x: int, y: int) -> None:
    for state in (State.RUN, State.REUSE, State.DEAD):
        draw.rectangle((x, y, x + _CELL, y + _CELL), fill=COLOURS[state], outline=INK)
        draw.text((x + _CELL + 5, y + _CELL // 2), WORDS[state], fill=INK, font=font, anchor="lm")
        x += _CELL + 20 + int(font.getlength(WORDS[state]))
