"""The demo's picture: rows of pictures with captions, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..demo_models.pipeline import to_pil

SCALE, GAP, CAPTION = 2, 8, 30
"""Enlargement of the pictures; pixels between them; pixels of a caption's line above each row."""
_BACKGROUND, _INK, _MUTED = (250, 249, 246), (28, 28, 34), (120, 120, 128)
_DIFFERENCE_GAIN = 4.0


def difference(pictures: Tensor, dense: Tensor) -> Tensor:
    """Absolute difference, amplified 4 times, of the shape of the pictures.

    Args:
        pictures: [B, 3, H, W] in 0..1.
        dense: of the same shape.

    Example:
        >>> import torch
        >>> difference(torch.tensor([0.5, 1.0]), torch.tensor([0.25, 0.0])).tolist()
        [1.0, 1.0]
    """
    return ((pictures - dense).abs() * _DIFFERENCE_GAIN).clamp(0, 1)


def contact_sheet(strips: Sequence[tuple[str, Tensor]], names: Sequence[str]) -> Image.Image:
    """Draw rows of pictures with captions.

    Args:
        strips: (caption, pictures [B, 3, H, W] in 0..1) of each row.
        names: of the B columns.

    Example:
        >>> import torch
        >>> contact_sheet([("dense", torch.zeros(2, 3, 64, 64))], ["sun", "moon"]).size
        (280, 196)
    """
    side = strips[0][1].shape[-1] * SCALE
    width = len(names) * (side + GAP) + GAP
    height = len(strips) * (side + CAPTION + GAP) + CAPTION
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    top = 0
    for caption, pictures in strips:
        _row(sheet, pictures, caption, top)
        top += side + CAPTION + GAP
    _names(sheet, names, side, top)
    return sheet


def stacked(*sheets: Image.Image) -> Image.Image:
    """Sheets of one width, one below the other.

    Args:
        sheets: from the top.

    Example:
        >>> stacked(Image.new("RGB", (8, 4)), Image.new("RGB", (8, 2))).size
        (8, 6)
    """
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)), _BACKGROUND)
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def _row(sheet: Image.Image, pictures: Tensor, caption: str, top: int) -> None:
    ImageDraw.Draw(sheet).text((GAP, top + 4), caption, fill=_INK, font=ImageFont.load_default(20))
    for column, picture in enumerate(to_pil(pictures)):
        side = picture.width * SCALE
        enlarged = picture.resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (GAP + column * (side + GAP), top + CAPTION))


def _names(sheet: Image.Image, names: Sequence[str], side: int, top: int) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for column, name in enumerate(names):
        centre = GAP + column * (side + GAP) + side // 2
        draw.text((centre, top + CAPTION // 2), name, fill=_MUTED, font=font, anchor="mm")
