"""Pictures in ComfyUI's format."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..core.plan.heatmap import INK, PAPER


def image(picture: Image.Image) -> torch.Tensor:
    """ComfyUI's IMAGE: [1, H, W, 3] in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]


def notice(text: str) -> Image.Image:
    """A picture of one line of text, shown in place of a picture that cannot be drawn."""
    picture = Image.new("RGB", (max(360, 7 * len(text)), 40), PAPER)
    ImageDraw.Draw(picture).text((10, 14), text, fill=INK)
    return picture


def labelled(pictures: torch.Tensor, text: str) -> torch.Tensor:
    """Pictures with a line of text above each: [B, H + h, W, 3].

    Args:
        pictures: [B, H, W, 3] in [0, 1].
        text: as large as fits.
    """
    count, height, width, _ = pictures.shape
    size = max(8, height // 28)
    while size > 8 and ImageFont.load_default(size).getlength(text) > 0.9 * width:
        size -= 1
    bar = Image.new("RGB", (width, 2 * size), PAPER)
    ImageDraw.Draw(bar).text((width // 2, size), text, fill=INK, font=ImageFont.load_default(size), anchor="mm")
    return torch.cat([image(bar).expand(count, -1, -1, -1), pictures], dim=1)
