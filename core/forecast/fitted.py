"""The fitted forecast: input and outputs of the last two calls that ran, weighted so that a profile's dense runs are met best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .history import History, latent_channels, weighted
from .predictors import PREDICTORS
from .profile import Profile
from .space import RAW, Affine

RIDGE = 0.003
"""How much the weights are drawn towards those of a line on the noise, in parts of each term's own size: the profile's dense
runs are not the run that is forecast, and free weights fit their noise."""


@dataclass(frozen=True)
class Coefficients:
    """A forecast output: `x` times the call's input, and for each known call `o` times its output and `i` times its input.

    Args:
        x: weight of the call's own input.
        o: weights of the known outputs, the oldest first.
        i: weights of the known inputs.
        line: weights of the known outputs on a straight line, for channels without an input (a learned variance).

    Example:
        >>> Coefficients(x=0.1, o=(-0.9, 1.9), i=(0.0, 0.0), line=(-1.0, 2.0)).o[1]
        1.9
    """

    x: float
    o: tuple[float, ...]
    i: tuple[float, ...]
    line: tuple[float, ...]


class Fit:
    """The weights that a profile gives to every forecast. They are one linear combination, as every forecast here is.

    The mean squared error of a combination c of the known inputs and outputs is the quadratic form `c' G c` of the Gram
    matrix, so the best c solves five linear equations.

    Args:
        profile: of the run's noise levels.

    Example:
        >>> from .space import Noise
        >>> levels = (Noise(0.6, 0.8, "eps"),) * 3
        >>> outputs = np.array([[1.0, 1], [2, 1], [3, 1]])  # on a straight line
        >>> gram = np.eye(6) * 1e-3; gram[3:, 3:] += outputs @ outputs.T
        >>> fit = Fit(Profile(gram, (900.0, 500.0, 100.0), levels, "toy"))
        >>> [round(weight, 1) for weight in fit.coefficients(2, (0, 1)).o]
        [-1.0, 2.0]
    """

    def __init__(self, profile: Profile) -> None:
        """Nothing is solved before it is asked for."""
        self.profile = profile
        self._known: dict[tuple[int, tuple[int, ...]], Coefficients] = {}

    def step_at(self, position: float) -> int:
        """Return the number of the step at a position of the run.

        Args:
            position: in [0, 1].
        """
        return int(np.abs(self.profile.positions - position).argmin())

    def coefficients(self, step: int, known: tuple[int, ...]) -> Coefficients:
        """Return the weights of one forecast.

        Args:
            step: number of the step that is forecast.
            known: the last steps that ran, one or two, the oldest first.
        """
        key = (step, known)
        if key not in self._known:
            self._known[key] = self._solved(step, known)
        return self._known[key]

    def error(self, step: int, known: tuple[int, ...]) -> float:
        """Return the mean squared error of one forecast in the profile's runs.

        Args:
            step: number of the step that is forecast.
            known: the last steps that ran, one or two, the oldest first.
        """
        found, rows = self.coefficients(step, known), self._rows(step, known)
        weights = np.array([found.x, *found.o, *found.i, -1.0])
        rows.append(self.profile.steps + step)
        return max(0.0, float(weights @ self.profile.gram[np.ix_(rows, rows)] @ weights))

    def _rows(self, step: int, known: tuple[int, ...]) -> list[int]:
        """Return the rows of the Gram matrix: the step's input, the known outputs, the known inputs."""
        return [step, *(self.profile.steps + k for k in known), *known]

    def _solved(self, step: int, known: tuple[int, ...]) -> Coefficients:
        gram, rows = self.profile.gram, self._rows(step, known)
        line, start = self._line(step, known)
        normal, wanted = gram[np.ix_(rows, rows)], gram[rows, self.profile.steps + step]
        drawn = RIDGE * np.diag(normal) + 1e-9 * max(1.0, float(np.diag(normal).max()))
        found = np.linalg.solve(normal + np.diag(drawn), wanted + drawn * start)
        o, i = np.split(found[1:], 2)
        return Coefficients(float(found[0]), tuple(o.tolist()), tuple(i.tolist()), tuple(line.tolist()))

    def _line(self, step: int, known: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights of a line through the known values, and the same forecast of the noise as a combination."""
        at = self.profile.positions
        weights = PREDICTORS["line"].weights(at[list(known)].tolist(), float(at[step]))
        here, spaces = self.profile.space_at(step, "eps"), [self.profile.space_at(k, "eps") for k in known]
        o = [weight * space.o / here.o for weight, space in zip(weights, spaces, strict=True)]
        i = [weight * space.x / here.o for weight, space in zip(weights, spaces, strict=True)]
        return weights, np.array([-here.x / here.o, *o, *i])


class FittedHistory(History):
    """The inputs and outputs of the last two calls of one stream, and the fitted forecast from them.

    Args:
        fit: the weights.

    Attributes:
        nbytes: bytes held.

    Example:
        >>> import torch
        >>> from .space import Noise
        >>> gram = np.eye(6)
        >>> history = FittedHistory(Fit(Profile(gram, (900.0, 500.0, 100.0), (Noise(0.6, 0.8, "eps"),) * 3, "toy")))
        >>> history.add(0.0, RAW, torch.ones(1, 1), torch.ones(1, 1))
        >>> history.forecast(0.5, RAW, torch.ones(1, 1)).shape, history.nbytes
        (torch.Size([1, 1]), 8)
    """

    def __init__(self, fit: Fit) -> None:
        """Start empty."""
        super().__init__(PREDICTORS["line"], raw=True)
        self._fit = fit
        self._inputs: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return super().nbytes + sum(x.nbytes for x in self._inputs)

    def add(self, position: float, space: Affine, x: Tensor, output: Tensor, correct: bool = False) -> Tensor | None:
        """Store a true output, and its input. They replace those at their position and beyond.

        Args:
            position: of the call in its run, in [0, 1].
            space: not used.
            x: the network's input [rows, ...].
            output: its output [rows, ...].
            correct: not used.
        """
        kept = sum(at < position for at in self._positions)
        super().add(position, RAW, x, output)
        self._inputs = [*self._inputs[:kept], x.float().clone()][-len(self._values) :]
        return None

    def forecast(self, position: float, space: Affine, x: Tensor) -> Tensor:
        """Return the forecast output [rows, ...] in float32.

        Args:
            position: of the call.
            space: not used.
            x: the network's input [rows, ...].
        """
        steps = tuple(self._fit.step_at(at) for at in self._positions)
        found = self._fit.coefficients(self._fit.step_at(position), steps)
        output = weighted(self._values, found.line)
        part, latent = latent_channels(output, x.float())
        pairs = [latent_channels(o, i) for o, i in zip(self._values, self._inputs, strict=True)]
        terms = [latent, *(i for _, i in pairs), *(o for o, _ in pairs)]
        part.copy_(weighted(terms, [found.x, *found.i, *found.o]))
        return output
