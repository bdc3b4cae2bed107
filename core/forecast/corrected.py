"""The corrected line: what a line missed at skipped steps is put right at the next one that runs.

It is for samplers whose steps are known sums of the network's outputs: Euler and DDIM go from one noise level to the next along
the newest picture, DPM++ 2M along a line through the two newest ones. So how far the latent has drifted follows from how wrong the
noise was, and that shows once the network runs again: then it can be interpolated where it was extrapolated. The equations are in
docs/methods.md; the idea is that of predictor-corrector methods such as UniPC (arXiv 2302.04867).
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

_MOVES = 0.3
"""Share of the drift by which the picture that the network sees is taken to move along; for samplers that continue pictures, and
with them what is wrong in them. Measured (docs/benchmarks/calls.md)."""


class CorrectedHistory(History):
    """The known noise of one stream in one run, its continuation along a line, and the correction of what the line missed.

    The latent is moved back to where it would be, and the picture that the network sees in it is kept: its noise changes by as
    much. So the sampler ends at what the network sees, and the line goes on from the corrected noise. A sampler that continues
    pictures (DPM++ 2M) also continues what was added to the last one. That is taken back at its next steps, forecast or not.

    Args:
        positions: of the steps, rising.
        levels: sigma / alpha at each step, and after the last one.
        slopes: how far each step continues the last change of the picture (:attr:`.plan.run.Horizon.slopes`); () for not at all.

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

    def __init__(self, positions: Sequence[float], levels: Sequence[float], slopes: Sequence[float] = ()) -> None:
        """Start empty."""
        super().__init__(_LINE)
        self._places, self._levels = np.asarray(positions, dtype=float), tuple(levels)
        self._slopes, self._moves = tuple(slopes), _MOVES if slopes else 0.0
        self._added: Tensor | None = None  # to the picture at the last step that ran, which the sampler continues

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return super().nbytes + (0 if self._added is None else self._added.nbytes)

    def corrects(self, position: float) -> bool:
        """Return whether there is something to put right at a position: steps were skipped before it, or the sampler continues what
        was added. All steps since the last one that ran must be known with their levels.

        Args:
            position: of the call in its run, in [0, 1].
        """
        if self._between:
            return position > self._between[-1] and self._steps_to(position) is not None
        return self._added is not None and self._steps_to(position) is not None

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
            self._added = None
            return super().add(position, space, x, output)
        drift, add = self._errors(position)
        known = [
            *([] if self._added is None else [self._added]),
            *(latent_channels(value, x)[0] for value in self._values),
        ]
        super().add(position, space, x, output)
        level, new = self._levels[self._step(position)], latent_channels(self._values[-1], x)[0]
        known.append(new)
        added, drifted = weighted(known, add), weighted(known, drift)
        new.sub_(drifted, alpha=(1 - self._moves) / level)
        found = output.float().clone()
        latent_channels(found, x)[0].sub_(added - self._moves * drifted, alpha=1 / (level * space.o))
        self._added = added if self._slopes else None
        return found

    def repaid(self, position: float, space: Affine, x: Tensor, output: Tensor) -> Tensor:
        """Return a forecast less what the sampler continues of the last correction.

        Args:
            position: of the call in its run, in [0, 1].
            space: of the noise.
            x: the network's input [rows, ...].
            output: the forecast [rows, ...] in float32, which is changed.
        """
        steps = self._steps_to(position) if self._added is not None else None
        if steps and self._added is not None:
            share = np.prod([self._continued(step) for step in steps])
            latent_channels(output, x)[0].sub_(self._added, alpha=float(share / (self._levels[steps[-1]] * space.o)))
        return output

    def _errors(self, position: float) -> tuple[list[float], list[float]]:
        """Return how far the latent has drifted at a position, over alpha, and what is to be added to the picture there.

        Both are weights of what was added to the last picture (if anything was), the known values and the new one. While they are
        summed there is one more, of the drift itself, by which the new value changes. `held` is the error of the picture that the
        sampler continues, `repaid` what was in it on purpose.
        """
        level, count = self._levels[self._step(position)], len(self._values)
        drift = np.zeros(count + 3)
        held = repaid = np.eye(count + 3)[0]
        for place in self._between:
            step, missed = self._step(place), np.zeros(count + 3)
            missed[1:-1] -= lagrange(np.asarray([*self._positions, position]), place)
            missed[-1] = -missed[-2] * (1 - self._moves) / level
            missed[1:-2] += _LINE.weights(self._positions, place)
            repaid = repaid * self._continued(step)
            before, held = held, drift - self._levels[step] * missed + repaid
            slope, kept = self._slope(step), self._levels[step + 1] / self._levels[step]
            drift = kept * drift + (1 - kept) * ((1 + slope) * held - slope * before)
        drift = drift[:-1] / (1 - drift[-1])
        held = held[:-1] + held[-1] * drift
        step = self._step(position)
        slope, kept = self._slope(step), self._levels[step + 1] / level
        add = (slope * held - kept / (1 - kept) * drift) / (1 + slope)
        first = 1 if self._added is None else 0
        return drift[first:].tolist(), add[first:].tolist()

    def _steps_to(self, position: float) -> list[int] | None:
        """Return the numbers of the steps from the one after the last that ran to the one at a position; None where the run left
        them, or their levels do not fall."""
        if not self._positions or position <= self._positions[-1]:
            return None
        seen = [self._positions[-1], *(place for place in self._between if place < position), position]
        steps = [self._step(place) for place in seen]
        levels = self._levels[steps[1] : steps[-1] + 2]
        announced = np.abs(self._places[steps] - seen).max() < _NEAR and steps == list(range(steps[0], steps[-1] + 1))
        falling = all(isfinite(level) and level > after for level, after in itertools.pairwise(levels))
        return steps[1:] if announced and falling else None

    def _slope(self, step: int) -> float:
        """Return how far a step continues the last change of the picture."""
        return self._slopes[step] if self._slopes else 0.0

    def _continued(self, step: int) -> float:
        """Return the share of an error in the last picture that must be in a step's own for it to have no effect."""
        return self._slope(step) / (1 + self._slope(step))

    def _step(self, position: float) -> int:
        """Return the number of the step at a position."""
        return int(np.abs(self._places - position).argmin())
