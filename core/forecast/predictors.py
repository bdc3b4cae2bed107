"""Predictors: the weights of earlier values in a forecast. They follow from the positions of the calls alone.

Every published forecaster is such a weighted sum: TaylorSeer (arXiv 2503.06923), HiCache (2508.16984), FoCa (2508.16211),
Spectrum (2603.01623), and the repetition of LazyCache. So one executor serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.polynomial import chebyshev, hermite

from .names import LINES, CallPredictorName, PredictorName

Weights = np.ndarray
"""float64 [m]: the weight of each known value, the oldest first."""

_FARTHEST = 20.0
"""Limit of extrapolation in distances of the last two values, whose rounding errors are multiplied by as much."""

_BASES, _RIDGE, _BLEND = 4, 0.1, 0.5
"""Spectrum's published settings: degree of the Chebyshev fit, ridge, and its share beside the line."""

_CONTRACTION = 0.5
"""HiCache's contraction of the Hermite polynomials."""

_HORIZON = 3.0
"""FoCa damps forecasts farther than this many steps, as cache-dit's implementation does."""


@dataclass(frozen=True)
class Predictor:
    """A way to continue a series of values.

    Args:
        weigh: (known positions, target position, positions of the skipped calls in between) -> weights.
        needs: number of known values it needs; with fewer, a straight line or the last value is used.
        keeps: number of known values it uses at most.

    Example:
        >>> PREDICTORS["line"].weights([0.0, 0.1], 0.2).round(6).tolist()
        [-1.0, 2.0]
    """

    weigh: Callable[[np.ndarray, float, np.ndarray], Weights]
    needs: int
    keeps: int

    def weights(self, known: Sequence[float], target: float, between: Sequence[float] = ()) -> Weights:
        """Return the weight of each known value.

        Args:
            known: positions of the known values, rising, at least one.
            target: position of the forecast, beyond the last known but one.
            between: positions of the calls between the last known one and the target.
        """
        at = np.asarray(known, dtype=np.float64)[-self.keeps :]
        if target == at[-1]:
            found = np.ones(1)
        elif len(at) < self.needs:
            found = _line(at, target)
        else:
            found = self.weigh(at, target, np.asarray(between, dtype=np.float64))
        return np.concatenate([np.zeros(len(known) - len(found)), found])


def lagrange(at: np.ndarray, target: float) -> Weights:
    """Return the weights of the polynomial through all values, which is exact for polynomials of degree len(at) - 1.

    Args:
        at: positions of the values, all different.
        target: position of the forecast.

    Example:
        >>> lagrange(np.array([0.0, 1.0, 2.0]), 3.0).tolist()
        [1.0, -3.0, 3.0]
    """
    others = [np.delete(at, i) for i in range(len(at))]
    return np.array([np.prod((target - rest) / (own - rest)) for own, rest in zip(at, others, strict=True)])


def _hold(at: np.ndarray, target: float, between: np.ndarray) -> Weights:
    return np.ones(1)


def _line(at: np.ndarray, target: float, between: np.ndarray | None = None) -> Weights:
    """Return the weights of the line through the last two values; of the last value if they are too close."""
    near = len(at) > 1 and abs(target - at[-1]) <= _FARTHEST * abs(at[-1] - at[-2])
    return lagrange(at[-2:], target) if near else np.ones(1)


def _taylor(at: np.ndarray, target: float, between: np.ndarray) -> Weights:
    """Return the weights of the polynomial through all values."""
    return lagrange(at, target)


def _series(at: np.ndarray, target: float, between: np.ndarray, basis: Callable[[int, float], float]) -> Weights:
    """Return the weights of sum_i basis(i, steps) D_i / i!, with D_i the i-th backward difference of the known values.

    A difference is divided by the distance to the known value before, as in TaylorSeer and HiCache, which count in steps.

    Args:
        at: positions of the known values.
        target: position of the forecast.
        between: positions of the skipped calls in between; a step is the mean distance of these calls.
        basis: (order, distance in steps) -> value.
    """
    step = (target - at[-1]) / (len(between) + 1)
    gaps, differences = np.diff(at)[::-1] / step, np.eye(len(at))[::-1]  # newest first
    total = differences[0].copy()
    for order in range(1, len(at)):
        differences = (differences[:-1] - differences[1:]) / gaps[: len(differences) - 1, None]
        total += basis(order, len(between) + 1.0) / factorial(order) * differences[0]
    return total


def _taylorseer(at: np.ndarray, target: float, between: np.ndarray) -> Weights:
    return _series(at, target, between, lambda order, steps: steps**order)


def _hermite(at: np.ndarray, target: float, between: np.ndarray) -> Weights:
    """Return HiCache's weights: TaylorSeer's with scaled Hermite polynomials in place of powers."""
    return _series(at, target, between, _scaled_hermite)


def _scaled_hermite(order: int, steps: float) -> float:
    return _CONTRACTION**order * float(hermite.Hermite.basis(order)(_CONTRACTION * steps))


def _foca(at: np.ndarray, target: float, between: np.ndarray) -> Weights:
    """Return FoCa's weights: the mean of the slopes at the last known value and at the last value or forecast."""
    last = np.array([0.0, 1.0])  # in terms of the last two known values
    slope = local = np.array([-1.0, 1.0]) / (at[-1] - at[-2])
    before, value = at[-1], last
    for steps, place in enumerate([*between, target], start=1):
        damping = min(1.0, _HORIZON / steps)
        found = last + damping**2 * (place - at[-1]) / 2 * (slope + local)
        local, before, value = (found - value) / (place - before), place, found
    return value


def _spectrum(at: np.ndarray, target: float, between: np.ndarray) -> Weights:
    """Return Spectrum's weights: half a ridge fit of Chebyshev polynomials to all known values, half a line."""
    design = chebyshev.chebvander(2 * at - 1, _BASES)
    goal = chebyshev.chebvander(np.array([2 * target - 1]), _BASES)
    fit = (goal @ np.linalg.solve(design.T @ design + _RIDGE * np.eye(_BASES + 1), design.T))[0]
    line = _line(at, target)
    return _BLEND * fit + (1 - _BLEND) * np.concatenate([np.zeros(len(at) - len(line)), line])


PREDICTORS: dict[PredictorName, Predictor] = {
    "line": Predictor(_line, needs=2, keeps=2),
    "hold": Predictor(_hold, needs=1, keeps=1),
    "taylor2": Predictor(_taylor, needs=3, keeps=3),
    "taylor3": Predictor(_taylor, needs=4, keeps=4),
    "taylorseer": Predictor(_taylorseer, needs=2, keeps=3),
    "hermite": Predictor(_hermite, needs=2, keeps=3),
    "foca": Predictor(_foca, needs=2, keeps=2),
    "spectrum": Predictor(_spectrum, needs=2, keeps=100),
}
"""Name -> predictor."""


def predictor_of(name: CallPredictorName) -> Predictor:
    """Return the predictor of whole calls by its name; the line for those that begin with one.

    Args:
        name: of the predictor.

    Example:
        >>> predictor_of("corrected") is PREDICTORS["line"], predictor_of("hold").needs
        (True, 1)
    """
    return PREDICTORS["line" if name in LINES else name]  # type: ignore[index]
