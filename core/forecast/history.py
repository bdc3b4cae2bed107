"""The known values of one stream, and the forecast from them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .predictors import Predictor
from .space import Affine


def weighted(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted sum of values, as the last one plus weighted differences from it.

    Where the weights sum to 1, equal values give exactly that value. This is the one executor of all forecasts.

    Args:
        values: known values of one shape, the oldest first.
        weights: as many numbers.

    Example:
        >>> import torch
        >>> weighted([torch.tensor([1.0]), torch.tensor([3.0])], [-0.5, 1.5])
        tensor([4.])
    """
    last, total = values[-1], float(sum(weights))
    result = last * total if abs(total - 1) > 1e-9 else last.clone()
    for value, weight in zip(values[:-1], weights[:-1], strict=True):
        if weight:
            result = result.add_(value - last, alpha=float(weight))
    return result


class History:
    """The known values of one stream in one run.

    Args:
        predictor: how they are continued.
        raw: whether the outputs themselves are forecast, because their noise levels are not known.

    Attributes:
        nbytes: bytes held.

    Example:
        >>> import torch
        >>> from .predictors import PREDICTORS
        >>> from .space import RAW
        >>> history, x = History(PREDICTORS["line"]), torch.zeros(1, 1)
        >>> for position, output in ((0.0, 1.0), (0.5, 2.0)):
        ...     history.add(position, RAW, x, torch.full((1, 1), output))
        >>> history.forecast(0.75, RAW, x)
        tensor([[2.5000]])
    """

    def __init__(self, predictor: Predictor, raw: bool = False) -> None:
        """Start empty."""
        self._predictor, self.raw = predictor, raw
        self._positions: list[float] = []
        self._values: list[Tensor] = []
        self._between: list[float] = []

    def __len__(self) -> int:
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(value.nbytes for value in self._values)

    def reaches(self, position: float) -> bool:
        """Return whether a position lies beyond the known values, or among the last two.

        Second-order steps share a noise level with the next step (Heun), or go a little beyond it (ancestral KDPM2).
        """
        return bool(self._positions) and position >= self._positions[-2:][0]

    def corrects(self, position: float) -> bool:
        """Return whether a true output at a position shows what forecasts before it missed, so that it can be corrected.

        Args:
            position: of the call in its run, in [0, 1].
        """
        return False

    def add(self, position: float, space: Affine, x: Tensor, output: Tensor, correct: bool = False) -> Tensor | None:
        """Store a true output. It replaces those at its position and beyond.

        Args:
            position: of the call in its run, in [0, 1].
            space: what is forecast.
            x: the network's input [rows, ...].
            output: its output [rows, ...].
            correct: whether it is corrected (:meth:`corrects`).

        Returns:
            The corrected output [rows, ...] in float32; None if it is not.
        """
        while self._positions and position <= self._positions[-1]:
            self._positions, self._values = self._positions[:-1], self._values[:-1]
        self._positions.append(position)
        self._values.append(_combined(space, x.float(), output.float()))
        self._between = []
        most = self._predictor.keeps
        self._positions, self._values = self._positions[-most:], self._values[-most:]
        return None

    def forecast(self, position: float, space: Affine, x: Tensor) -> Tensor:
        """Return the forecast output [rows, ...] in float32.

        Args:
            position: of the call (:meth:`reaches`).
            space: what is forecast.
            x: the network's input [rows, ...].
        """
        between = [place for place in self._between if place < position]
        weights = self._predictor.weights(self._positions, position, between)
        return _separated(space, x.float(), weighted(self._values, weights.tolist()))

    def repaid(self, position: float, space: Affine, x: Tensor, output: Tensor) -> Tensor:
        """Return a forecast less what the sampler continues of the last correction; here nothing is corrected.

        Args:
            position: of the call in its run, in [0, 1].
            space: what is forecast.
            x: the network's input [rows, ...].
            output: the forecast [rows, ...] in float32.
        """
        return output

    def passed(self, position: float) -> None:
        """Register a forecast call. One noise level may be evaluated several times."""
        if position > (self._between or self._positions)[-1]:
            self._between.append(position)


def _combined(space: Affine, x: Tensor, output: Tensor) -> Tensor:
    """Return q [rows, ...] of the output's shape. Where the output has more channels (a learned variance), they stay raw."""
    if not space.x:
        return output * space.o if space.o != 1 else output.clone()
    q = output.clone()
    part, latent = latent_channels(q, x)
    part.mul_(space.o).add_(latent, alpha=space.x)
    return q


def _separated(space: Affine, x: Tensor, q: Tensor) -> Tensor:
    """Return the output [rows, ...] of q, the inverse of :func:`_combined`."""
    if not space.x:
        return q / space.o if space.o != 1 else q
    part, latent = latent_channels(q, x)
    part.sub_(latent, alpha=space.x).div_(space.o)
    return q


def latent_channels(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the channels that input and output share: an input's further ones hold masks, an output's a variance.

    Args:
        output: of the network [rows, ...].
        x: its input [rows, ...].

    Example:
        >>> import torch
        >>> [part.shape[1] for part in latent_channels(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4, 4, 4))]
        [4, 4]
    """
    if output.shape == x.shape:
        return output, x
    channels = min(output.shape[1], x.shape[1])
    return output[:, :channels], x[:, :channels]


def fits(output: Tensor, x: Tensor | None) -> bool:
    """Return whether input and output describe the same latent, so that a space other than the raw output makes sense.

    Args:
        output: the network's output [rows, ...].
        x: its input [rows, ...].

    Example:
        >>> import torch
        >>> fits(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4, 4, 4)), fits(torch.zeros(2, 4, 4, 4), torch.zeros(2, 4, 8, 8))
        (True, False)
    """
    if x is None or x.ndim != output.ndim or x.ndim < 3:
        return False
    if x.shape == output.shape:
        return True
    return x.ndim > 3 and x.shape[0] == output.shape[0] and x.shape[2:] == output.shape[2:]
