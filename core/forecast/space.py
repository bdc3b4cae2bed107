"""The spaces in which outputs are forecast. Each is affine in the call's own input: q = a x + b o.

A network predicts noise, velocity or picture from x = alpha x0 + sigma eps. At a known noise level each of these follows
from any other, but a straight line through two of them does not: what is forecast matters as much as how.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, inf
from typing import Literal

from .names import Space

Predicts = Literal["eps", "v", "x0", "flow", "-flow"]

_SMALLEST = 1e-3
"""Least |o-factor| at which an output can be found from its forecast: errors grow by its inverse."""


@dataclass(frozen=True)
class Noise:
    """The noise level of one call, and what the host's output predicts there.

    Args:
        alpha: factor of the picture in the input x = alpha x0 + sigma eps.
        sigma: factor of the noise.
        predicts: meaning of the output: noise "eps", angular velocity "v", picture "x0", the velocity eps - x0 "flow", or
            x0 - eps "-flow", of networks whose time runs from noise to picture (Lumina2, Z-Image).
        flow: whether the model is a flow model, alpha = 1 - sigma, whose velocity is eps - x0.

    Example:
        >>> Noise(alpha=0.6, sigma=0.8, predicts="eps").affine("x0")  # x0 = (x - sigma eps) / alpha
        Affine(x=1.6666666666666667, o=-1.3333333333333335)
    """

    alpha: float
    sigma: float
    predicts: Predicts
    flow: bool = False

    @classmethod
    def of_flow(cls, sigma: float, predicts: Predicts = "flow") -> Noise:
        """Return the level of a flow model.

        Args:
            sigma: from 1 (noise) to 0 (picture).
            predicts: meaning of the output.
        """
        return cls(1 - sigma, sigma, predicts, flow=True)

    @classmethod
    def of_karras(cls, sigma: float, predicts: Predicts, scaled: bool = True) -> Noise:
        """Return the level of a variance-preserving model from x0 + sigma eps (arXiv 2206.00364).

        Args:
            sigma: standard deviation of the noise, from 0 on.
            predicts: meaning of the output.
            scaled: whether the input is scaled to unit variance, as networks take it.
        """
        length = hypot(1, sigma) if scaled else 1.0
        return cls(1 / length, sigma / length, predicts)

    @property
    def ratio(self) -> float:
        """sigma / alpha; inf where there is no picture."""
        return self.sigma / self.alpha if self.alpha > 0 else inf

    def affine(self, space: Space) -> Affine | None:
        """Return how a space follows from input and output; None where it does not.

        Args:
            space: what to forecast.
        """
        if space == "difference":
            return Affine(-1.0, 1.0)
        if space == "raw" or (space == self.predicts and not self.flow):
            return RAW
        noise, picture = _mix(self.predicts, self)
        determinant = self.alpha * noise - self.sigma * picture
        if abs(determinant) < _SMALLEST:  # the input has no noise, or no picture, that the output could add
            return None
        # Solve x = alpha x0 + sigma eps, o = picture x0 + noise eps, and mix the two again.
        wanted_noise, wanted_picture = _mix("flow" if self.flow and space == "v" else space, self)
        x = (wanted_picture * noise - wanted_noise * picture) / determinant
        o = (wanted_noise * self.alpha - wanted_picture * self.sigma) / determinant
        return Affine(x, o)


@dataclass(frozen=True)
class Affine:
    """A space at one call: q = x-factor times input + o-factor times output.

    Args:
        x: factor of the input.
        o: factor of the output.

    Example:
        >>> half = Affine(x=1.0, o=2.0)
        >>> half.of(10.0, 3.0), half.output(10.0, 16.0)
        (16.0, 3.0)
    """

    x: float
    o: float

    @property
    def invertible(self) -> bool:
        """Whether the output can be found from q."""
        return abs(self.o) >= _SMALLEST

    def of(self, x: float, o: float) -> float:
        """Return q for an input and an output: numbers, arrays or tensors of one shape.

        Args:
            x: the input.
            o: the output.
        """
        return self.x * x + self.o * o if self.x else self.o * o

    def output(self, x: float, q: float) -> float:
        """Return the output for an input and a forecast q: numbers, arrays or tensors of one shape.

        Args:
            x: the input.
            q: the forecast.
        """
        return (q - self.x * x) / self.o if self.x else q / self.o


RAW = Affine(0.0, 1.0)
"""The output itself."""


def _mix(kind: str, at: Noise) -> tuple[float, float]:
    """Return the factors of eps and x0 in a quantity."""
    if kind == "v":
        length = hypot(at.alpha, at.sigma)
        return at.alpha / length, -at.sigma / length
    return {"eps": (1.0, 0.0), "x0": (0.0, 1.0), "flow": (1.0, -1.0), "-flow": (-1.0, 1.0)}[kind]
