"""The demo's picture: three rows of pictures with captions, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .pipeline import to_pil

_SCALE = 2
_GAP = 8
_CAPTION = 30
_BACKGROUND, _INK, _MUTED = (250, 249, 246), (28, 28, 34), (120, 120, 128)
_DIFFERENCE_GAIN = 4.0


def comparison(dense: Tensor, ours: Tensor, captions: Sequence[str], names: Sequence[str]) -> Image.Image:
    """dense, ours [B, 3, H, W] in 0..1 -> rows dense, ours and their difference (amplified 4 times), captioned."""
    difference = ((ours - dense).abs() * _DIFFERENCE_GAIN).clamp(0, 1)
    side = dense.shape[-1] * _SCALE
    width = len(names) * (side + _GAP) + _GAP
    height = 3 * (side + _CAPTION + _GAP) + _CAPTION
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    top = 0
    for pictures, caption in zip((dense, ours, difference), captions, strict=True):
        _row(sheet, pictures, caption, top)
        top += side + _CAPTION + _GAP
    _names(sheet, names, side, top)
    return sheet


def _row(sheet: Image.Image, pictures: Tensor, caption: str, top: int) -> None:
    ImageDraw.Draw(sheet).text((_GAP, top + 4), caption, fill=_INK, font=ImageFont.load_default(20))
    for column, picture in enumerate(to_pil(pictures)):
        side = picture.width * _SCALE
        enlarged = picture.resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (_GAP + column * (side + _GAP), top + _CAPTION))


def _names(sheet: Image.Image, names: Sequence[str], side: int, top: int) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for column, name in enumerate(names):
        centre = _GAP + column * (side + _GAP) + side // 2
        draw.text((centre, top + _CAPTION // 2), name, fill=_MUTED, font=font, anchor="mm")
