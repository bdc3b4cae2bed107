"""The demo's data: ten bold icons on soft gradients, drawn with Pillow; the same seed gives the same pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

SIZE = 64
"""Side of a picture in pixels."""
SUPERSAMPLING = 4

WHITE: Colour = (250, 246, 238)
CREAM: Colour = (255, 232, 176)
YELLOW: Colour = (255, 208, 62)
ORANGE: Colour = (255, 146, 48)
RED: Colour = (232, 58, 66)
PINK: Colour = (255, 138, 178)
LIME: Colour = (150, 214, 74)
GREEN: Colour = (86, 190, 90)
BROWN: Colour = (150, 92, 52)
INK: Colour = (34, 32, 52)

BACKGROUNDS: tuple[tuple[Colour, Colour], ...] = (
    ((30, 40, 96), (66, 90, 160)),
    ((74, 40, 116), (134, 92, 172)),
    ((58, 134, 206), (128, 192, 238)),
    ((12, 84, 104), (58, 150, 158)),
)
"""Top and bottom colours; every class uses all of them, so that only the shape tells the class."""


@dataclass(frozen=True)
class _Pen:
    """Draws in unit coordinates (x right, y down, the picture spans -1..1) under one rotation, scale and shift."""

    canvas: ImageDraw.ImageDraw
    side: int
    angle: float
    scale: float
    shift: Point

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill the polygon through `points`."""
        self.canvas.polygon([self._pixel(x, y) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        """Fill an ellipse with centre (x, y) and radii (rx, ry); `ry` defaults to `rx`."""
        self.polygon(_arc(x, y, rx, rx if ry is None else ry, 0, 360), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def _pixel(self, x: float, y: float) -> Point:
        cos, sin = math.cos(self.angle) * self.scale, math.sin(self.angle) * self.scale
        u, v = x * cos - y * sin + self.shift[0], x * sin + y * cos + self.shift[1]
        return (u + 1) * self.side / 2, (v + 1) * self.side / 2


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> list[Point]:
    """Points on an ellipse from `start` to `stop` degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, 41))
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _spikes(count: int, outer: float, inner: float) -> list[Point]:
    """A star polygon with `count` points, the first one up."""
    radii = [outer, inner] * count
    return [(r * math.sin(math.pi * i / count), -r * math.cos(math.pi * i / count)) for i, r in enumerate(radii)]


def _sun(pen: _Pen, colour: Colour) -> None:
    """A disc in a ring of eight rays."""
    pen.polygon(_spikes(8, 0.80, 0.46), colour)
    pen.disc(0, 0, 0.40, WHITE)
    pen.disc(0, 0, 0.32, colour)


def _moon(pen: _Pen, colour: Colour) -> None:
    """A crescent, open to the right."""
    pen.polygon(_arc(0.05, 0, 0.68, 0.68, 50, 310) + _arc(0.30, 0, 0.48, 0.52, 292, 68), colour)


def _star(pen: _Pen, colour: Colour) -> None:
    """A five-pointed star."""
    pen.polygon(_spikes(5, 0.80, 0.36), colour)


def _heart(pen: _Pen, colour: Colour) -> None:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    outline = []
    for t in np.linspace(0, 2 * math.pi, 60):
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        outline.append((0.043 * 16 * math.sin(t) ** 3, -0.043 * y - 0.06))
    pen.polygon(outline, colour)


def _house(pen: _Pen, colour: Colour) -> None:
    """Cream walls, a coloured roof, a door and a window."""
    pen.box(-0.48, -0.08, 0.48, 0.64, CREAM)
    pen.polygon([(-0.70, -0.06), (0, -0.70), (0.70, -0.06)], colour)
    pen.box(-0.32, 0.18, -0.04, 0.64, BROWN)
    pen.box(0.12, 0.12, 0.36, 0.36, INK)


def _tree(pen: _Pen, colour: Colour) -> None:
    """A fir of three tiers on a trunk."""
    pen.box(-0.11, 0.40, 0.11, 0.76, BROWN)
    for top, bottom, half in ((-0.10, 0.50, 0.58), (-0.46, 0.16, 0.46), (-0.80, -0.18, 0.34)):
        pen.polygon([(-half, bottom), (0, top), (half, bottom)], colour)


def _fish(pen: _Pen, colour: Colour) -> None:
    """A fish that swims to the left."""
    pen.polygon([(0.28, 0), (0.78, -0.42), (0.78, 0.42)], colour)
    pen.disc(-0.16, 0, 0.58, colour, 0.40)
    pen.disc(-0.42, -0.08, 0.11, WHITE)
    pen.disc(-0.42, -0.08, 0.06, INK)


def _flower(pen: _Pen, colour: Colour) -> None:
    """Six petals, a yellow heart."""
    for i in range(6):
        pen.disc(0.44 * math.sin(math.pi * i / 3), -0.44 * math.cos(math.pi * i / 3), 0.28, colour)
    pen.disc(0, 0, 0.25, YELLOW)


def _mushroom(pen: _Pen, colour: Colour) -> None:
    """A dotted cap on a white stem."""
    pen.polygon([(-0.18, 0), (0.18, 0), (0.26, 0.68), (-0.26, 0.68)], WHITE)
    pen.polygon(_arc(0, 0.10, 0.72, 0.76, 180, 360), colour)
    for x, y, r in ((-0.36, -0.16, 0.12), (0.04, -0.38, 0.13), (0.38, -0.12, 0.11)):
        pen.disc(x, y, r, WHITE)


def _boat(pen: _Pen, colour: Colour) -> None:
    """A hull with two white sails."""
    pen.polygon([(-0.74, 0.32), (0.74, 0.32), (0.46, 0.68), (-0.46, 0.68)], colour)
    pen.polygon([(-0.03, -0.74), (-0.03, 0.22), (-0.60, 0.22)], WHITE)
    pen.polygon([(0.06, -0.56), (0.06, 0.22), (0.52, 0.22)], WHITE)


@dataclass(frozen=True)
class _Icon:
    """One class: how it is drawn and the colours it comes in."""

    draw: Callable[[_Pen, Colour], None]
    colours: tuple[Colour, ...]


ICONS: dict[str, _Icon] = {
    "sun": _Icon(_sun, (YELLOW, ORANGE)),
    "moon": _Icon(_moon, (CREAM, YELLOW)),
    "star": _Icon(_star, (YELLOW, WHITE)),
    "heart": _Icon(_heart, (RED, PINK)),
    "house": _Icon(_house, (RED, ORANGE)),
    "tree": _Icon(_tree, (LIME, GREEN)),
    "fish": _Icon(_fish, (ORANGE, YELLOW)),
    "flower": _Icon(_flower, (PINK, WHITE)),
    "mushroom": _Icon(_mushroom, (RED, ORANGE)),
    "boat": _Icon(_boat, (RED, BROWN)),
}
CLASSES: tuple[str, ...] = tuple(ICONS)


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


def _draw_picture(name: str, rng: np.random.Generator) -> Image.Image:
    """One SIZE x SIZE picture of class `name`: random background, colour, place, size and tilt."""
    side = SIZE * SUPERSAMPLING
    picture = gradient(*BACKGROUNDS[rng.integers(len(BACKGROUNDS))], side)
    icon = ICONS[name]
    colour = icon.colours[rng.integers(len(icon.colours))]
    shift = (rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04))
    angle, scale = math.radians(rng.uniform(-4, 4)), rng.uniform(0.94, 1.06)
    icon.draw(_Pen(ImageDraw.Draw(picture), side, angle, scale, shift), colour)
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)


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
    drawn = [np.asarray(_draw_picture(CLASSES[label], rng)) for label in labels.tolist()]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous(), labels
