"""The demo's data: ten bold icons on soft gradients, drawn with Pillow; the same seed gives the same pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

from .icons import CLASSES, COLOURS, ICONS, Colour, Pen, Point

SIZE = 64
"""Side of a picture in pixels."""
SUPERSAMPLING = 4

BACKGROUNDS: dict[str, tuple[Colour, Colour]] = {
    "navy": ((30, 40, 96), (66, 90, 160)),
    "purple": ((74, 40, 116), (134, 92, 172)),
    "blue": ((58, 134, 206), (128, 192, 238)),
    "teal": ((12, 84, 104), (58, 150, 158)),
}
"""Top and bottom colours; every class uses all of them, so that only the shape tells the class."""


@dataclass(frozen=True)
class Motif:
    """What a picture shows.

    Args:
        name: of the class.
        colour: name of the icon's colour.
        background: name of the background.

    Example:
        >>> Motif("heart", "green", "teal").usual
        False
    """

    name: str
    colour: str
    background: str

    @property
    def usual(self) -> bool:
        """Whether the class comes in this colour in the pictures of :func:`draw_pictures`."""
        return self.colour in ICONS[self.name].colours


@dataclass(frozen=True)
class Pose:
    """Where and how large an icon is.

    Args:
        shift: right and down, in half pictures.
        angle: clockwise, in radians.
        scale: 1 is the usual size.

    Example:
        >>> Pose().scale
        1.0
    """

    shift: Point = (0.0, 0.0)
    angle: float = 0.0
    scale: float = 1.0


def gradient(top: Colour, bottom: Colour, side: int) -> Image.Image:
    """A vertical gradient of `side` x `side` pixels.

    Args:
        top: colour of the first row.
        bottom: colour of the last row.
        side: in pixels.

    Example:
        >>> gradient((0, 0, 0), (255, 255, 255), 3).getpixel((0, 1))
        (128, 128, 128)
    """
    ramp = np.linspace(0, 1, side)[:, None, None]
    rows = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows.round().astype(np.uint8), (side, side, 3)).copy())


def draw_motif(motif: Motif, pose: Pose = Pose()) -> Image.Image:
    """Draw a motif, SIZE x SIZE.

    Args:
        motif: what to draw.
        pose: of the icon.

    Example:
        >>> draw_motif(Motif("moon", "cream", "navy")).getpixel((0, 0))
        (30, 40, 97)
    """
    side = SIZE * SUPERSAMPLING
    picture = gradient(*BACKGROUNDS[motif.background], side)
    pen = Pen(ImageDraw.Draw(picture), side, pose.angle, pose.scale, pose.shift)
    ICONS[motif.name].draw(pen, COLOURS[motif.colour])
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)


def random_motif(name: str, rng: np.random.Generator) -> Motif:
    """A class on a random background, in one of its usual colours.

    Args:
        name: of the class.
        rng: chooses.

    Example:
        >>> random_motif("heart", np.random.default_rng(0))
        Motif(name='heart', colour='pink', background='teal')
    """
    background = one_of(tuple(BACKGROUNDS), rng)
    return Motif(name, one_of(ICONS[name].colours, rng), background)


def random_pose(rng: np.random.Generator) -> Pose:
    """A random place, tilt and size.

    Args:
        rng: chooses.

    Example:
        >>> abs(random_pose(np.random.default_rng(0)).angle) < 0.07
        True
    """
    shift = (rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04))
    return Pose(shift, math.radians(rng.uniform(-4, 4)), rng.uniform(0.94, 1.06))


def one_of(choices: Sequence[str], rng: np.random.Generator) -> str:
    """One of several words.

    Args:
        choices: the words.
        rng: chooses.

    Example:
        >>> one_of(["red"], np.random.default_rng(0))
        'red'
    """
    return choices[int(rng.integers(len(choices)))]


def as_tensor(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures as uint8 [B, 3, H, W].

    Args:
        pictures: of one size.

    Example:
        >>> as_tensor([draw_motif(Motif("moon", "cream", "navy"))]).shape
        torch.Size([1, 3, 64, 64])
    """
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2).contiguous()


def draw_pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw pictures; the classes take turns.

    Args:
        count: of pictures.
        seed: of places, sizes and colours.

    Returns pictures uint8 [count, 3, 64, 64] and labels int64 [count].

    Example:
        >>> pictures, labels = draw_pictures(3, seed=0)
        >>> pictures.shape, [CLASSES[k] for k in labels]
        (torch.Size([3, 3, 64, 64]), ['sun', 'moon', 'star'])
    """
    rng = np.random.default_rng(seed)
    labels = torch.arange(count) % len(CLASSES)
    drawn = [draw_motif(random_motif(CLASSES[label], rng), random_pose(rng)) for label in labels.tolist()]
    return as_tensor(drawn), labels
