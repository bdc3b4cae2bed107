"""The corrected line: what a line missed at skipped steps is put right at the next one that runs.

It is for samplers that go from one noise level to the next along the network's output alone (Euler, DDIM). There x / alpha moves
by the noise times the change of sigma / alpha, so how far the latent has drifted follows from how wrong the noise was, and that
shows once the network runs again: then it can be interpolated where it was extrapolated. The equations are in docs/methods.md; the
idea is that of predictor-corrector methods such as UniPC (arXiv 2302.04867).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import isfinite

import numpy as np
from torch import Tensor

from .history import History, latent_channels, weighted
from .predictors import PREDICTORS, lagrange
from .space import Affine

_LINE = PREDICTORS["line"]

_NEAR = 1e-3
"""How far from its announced position a step may be: beyond it the run has left its levels."""


class CorrectedHistory(History):
    """The known noise of one stream in one run, its continuation along a line, and the correction of what the line missed.

    The latent is moved back to where it would be, and the picture that the network sees in it is kept: its noise changes by as
    much. So the sampler ends at what the network sees, and the line goes on from the corrected noise.

    Args:
        positions: of the steps, rising.
        levels: sigma / alpha at each step, and after the last one.

    Example:
        >>> import torch
        >>> from .space import Noise
        >>> history, x = CorrectedHistory((0.0, 0.4, 0.8), (3.0, 2.0, 1.0, 0.5)), torch.ones(1, 1, 1)
        >>> noise = Noise(0.0, 1.0, "eps").affine("eps")
        >>> history.add(0.0, noise, x, torch.full((1, 1, 1), 1.0)) is None
        True
        >>> history.forecast(0.4, noise, x).item(), history.passed(0.4)  # the only known value is repeated
        (1.0, None)
        >>> round(history.add(0.8, noise, x, torch.full((1, 1, 1), 2.0), correct=True).item(), 3)
        2.333
    """

    def __init__(self, positions: Sequence[float], levels: Sequence[float]) -> None:
        """Start empty."""
        super().__init__(_LINE)
        self._places, self._levels = np.asarray(positions, dtype=float), tuple(levels)

    def corrects(self, position: float) -> bool:
        """Return whether steps were skipped before a position, and all of them are known with their levels.

        Args:
            position: of the call in its run, in [0, 1].
        """
        if not self._between or position <= self._between[-1]:
            return False
        seen = [self._positions[-1], *self._between, position]
        steps = list(map(self._step, seen))
        announced = bool(np.abs(self._places[steps] - seen).max() < _NEAR) and steps == list(
            range(steps[0], steps[-1] + 1)
        )
        levels = self._levels[steps[1] : steps[-1] + 2]
        return announced and all(isfinite(level) and level > after for level, after in itertools.pairwise(levels))

    def add(self, position: float, space: Affine, x: Tensor, output: Tensor, correct: bool = False) -> Tensor | None:
        """Store a true output; corrected if that is wished, with the line going on from the corrected noise.

        Args:
            position: of the call in its run, in [0, 1].
            space: of the noise.
            x: the network's input [rows, ...].
            output: its output [rows, ...].
            correct: whether it is corrected (:meth:`corrects`).

        Returns:
            The corrected output [rows, ...] in float32; None if it is not.
        """
        if not correct:
            return super().add(position, space, x, output)
        way, known = self._way_back(position), list(self._values)
        super().add(position, space, x, output)
        back, _ = latent_channels(weighted([*known, self._values[-1]], way), x)
        step = self._step(position)
        level, after = self._levels[step], self._levels[step + 1]
        found = output.float().clone()
        _add(self._values[-1], x, back, 1 / level)
        _add(found, x, back, after / (level * (after - level) * space.o))
        return found

    def _way_back(self, position: float) -> list[float]:
        """Return the weights of the known values and the new one in what leads the latent back to where it would be.

        What leads it back changes the new value, from which it was found: back = weights . values + own (back / level).
        """
        total, level = np.zeros(len(self._positions) + 1), self._levels[self._step(position)]
        for place in self._between:
            truth, step = lagrange(np.asarray([*self._positions, position]), place), self._step(place)
            truth[:-1] -= _LINE.weights(self._positions, place)
            total += truth * (self._levels[step + 1] - self._levels[step])
        return (total / (1 - total[-1] / level)).tolist()  # type: ignore[no-any-return]

    def _step(self, position: float) -> int:
        """Return the number of the step at a position."""
        return int(np.abs(self._places - position).argmin())


def _add(to: Tensor, x: Tensor, back: Tensor, factor: float) -> None:
    """Add to the channels that are the latent's."""
    latent_channels(to, x)[0].add_(back, alpha=factor)
