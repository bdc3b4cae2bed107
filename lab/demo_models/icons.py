"""The ten icons of the demo's pictures, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

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

COLOURS: dict[str, Colour] = {
    "white": WHITE,
    "cream": CREAM,
    "yellow": YELLOW,
    "orange": ORANGE,
    "red": RED,
    "pink": PINK,
    "lime": LIME,
    "green": GREEN,
    "brown": BROWN,
}
"""What an icon can be painted in."""


@dataclass(frozen=True)
class Pen:
    """Draws in unit coordinates (x right, y down, the picture spans -1..1) under one rotation, scale and shift.

    Args:
        canvas: of Pillow.
        side: of the canvas in pixels.
        angle: of the rotation, clockwise, in radians.
        scale: of the drawing.
        shift: right and down.

    Example:
        >>> from PIL import Image
        >>> picture = Image.new("L", (4, 4))
        >>> Pen(ImageDraw.Draw(picture), 4, 0.0, 1.0, (0.0, 0.0)).box(-1, -1, 1, 1, 255)
        >>> picture.getpixel((1, 1))
        255
    """

    canvas: ImageDraw.ImageDraw
    side: int
    angle: float
    scale: float
    shift: Point

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon.

        Args:
            points: its corners.
            colour: of it.
        """
        self.canvas.polygon([self._pixel(x, y) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, rx: float, colour: Colour, ry: float | None = None) -> None:
        """Fill an ellipse.

        Args:
            x, y: its centre.
            rx, ry: its radii; `ry` defaults to `rx`.
            colour: of it.
        """
        self.polygon(_arc(x, y, rx, rx if ry is None else ry, 0, 360), colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle.

        Args:
            left, top, right, bottom: its sides.
            colour: of it.
        """
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


def _sun(pen: Pen, colour: Colour) -> None:
    """A disc in a ring of eight rays."""
    pen.polygon(_spikes(8, 0.80, 0.46), colour)
    pen.disc(0, 0, 0.40, WHITE)
    pen.disc(0, 0, 0.32, colour)


def _moon(pen: Pen, colour: Colour) -> None:
    """A crescent, open to the right."""
    pen.polygon(_arc(0.05, 0, 0.68, 0.68, 50, 310) + _arc(0.30, 0, 0.48, 0.52, 292, 68), colour)


def _star(pen: Pen, colour: Colour) -> None:
    """A five-pointed star."""
    pen.polygon(_spikes(5, 0.80, 0.36), colour)


def _heart(pen: Pen, colour: Colour) -> None:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    outline = []
    for t in np.linspace(0, 2 * math.pi, 60):
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        outline.append((0.043 * 16 * math.sin(t) ** 3, -0.043 * y - 0.06))
    pen.polygon(outline, colour)


def _house(pen: Pen, colour: Colour) -> None:
    """Cream walls, a coloured roof, a door and a window."""
    pen.box(-0.48, -0.08, 0.48, 0.64, CREAM)
    pen.polygon([(-0.70, -0.06), (0, -0.70), (0.70, -0.06)], colour)
    pen.box(-0.32, 0.18, -0.04, 0.64, BROWN)
    pen.box(0.12, 0.12, 0.36, 0.36, INK)


def _tree(pen: Pen, colour: Colour) -> None:
    """A fir of three tiers on a trunk."""
    pen.box(-0.11, 0.40, 0.11, 0.76, BROWN)
    for top, bottom, half in ((-0.10, 0.50, 0.58), (-0.46, 0.16, 0.46), (-0.80, -0.18, 0.34)):
        pen.polygon([(-half, bottom), (0, top), (half, bottom)], colour)


def _fish(pen: Pen, colour: Colour) -> None:
    """A fish that swims to the left."""
    pen.polygon([(0.28, 0), (0.78, -0.42), (0.78, 0.42)], colour)
    pen.disc(-0.16, 0, 0.58, colour, 0.40)
    pen.disc(-0.42, -0.08, 0.11, WHITE)
    pen.disc(-0.42, -0.08, 0.06, INK)


def _flower(pen: Pen, colour: Colour) -> None:
    """Six petals, a yellow heart."""
    for i in range(6):
        pen.disc(0.44 * math.sin(math.pi * i / 3), -0.44 * math.cos(math.pi * i / 3), 0.28, colour)
    pen.disc(0, 0, 0.25, YELLOW)


def _mushroom(pen: Pen, colour: Colour) -> None:
    """A dotted cap on a white stem."""
    pen.polygon([(-0.18, 0), (0.18, 0), (0.26, 0.68), (-0.26, 0.68)], WHITE)
    pen.polygon(_arc(0, 0.10, 0.72, 0.76, 180, 360), colour)
    for x, y, r in ((-0.36, -0.16, 0.12), (0.04, -0.38, 0.13), (0.38, -0.12, 0.11)):
        pen.disc(x, y, r, WHITE)


def _boat(pen: Pen, colour: Colour) -> None:
    """A hull with two white sails."""
    pen.polygon([(-0.74, 0.32), (0.74, 0.32), (0.46, 0.68), (-0.46, 0.68)], colour)
    pen.polygon([(-0.03, -0.74), (-0.03, 0.22), (-0.60, 0.22)], WHITE)
    pen.polygon([(0.06, -0.56), (0.06, 0.22), (0.52, 0.22)], WHITE)


@dataclass(frozen=True)
class Icon:
    """One class.

    Args:
        draw: draws it in a colour.
        colours: names of its usual colours.

    Example:
        >>> ICONS["heart"].colours
        ('red', 'pink')
    """

    draw: Callable[[Pen, Colour], None]
    colours: tuple[str, ...]


ICONS: dict[str, Icon] = {
    "sun": Icon(_sun, ("yellow", "orange")),
    "moon": Icon(_moon, ("cream", "yellow")),
    "star": Icon(_star, ("yellow", "white")),
    "heart": Icon(_heart, ("red", "pink")),
    "house": Icon(_house, ("red", "orange")),
    "tree": Icon(_tree, ("lime", "green")),
    "fish": Icon(_fish, ("orange", "yellow")),
    "flower": Icon(_flower, ("pink", "white")),
    "mushroom": Icon(_mushroom, ("red", "orange")),
    "boat": Icon(_boat, ("red", "brown")),
}
CLASSES: tuple[str, ...] = tuple(ICONS)
