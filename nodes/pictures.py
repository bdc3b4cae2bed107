"""Pictures in ComfyUI's format."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw


def image(picture: Image.Image) -> torch.Tensor:
    """ComfyUI's IMAGE: [1, H, W, 3] in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]


def notice(text: str) -> Image.Image:
    """A picture of one line of text, shown in place of a picture that cannot be drawn."""
    picture = Image.new("RGB", (max(360, 7 * len(text)), 40), (255, 255, 255))
    ImageDraw.Draw(picture).text((10, 14), text, fill=(40, 40, 48))
    return picture
