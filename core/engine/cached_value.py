"""A block's cached value, or its last values, from which a predictor forecasts the next one.

The engine and mask training share this class, so that a mask runs as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from ..forecast.history import weighted
from ..forecast.predictors import PREDICTORS, Predictor
from .block_value import Values

_SPAN = 1000.0
"""Timesteps are divided by this, so that positions rise from about 0 to 1."""


@dataclass(frozen=True)
class CachedValue:
    """The last value of a block.

    Args:
        values: tensors [rows, ...] as computed.
        timestep: training timestep at which they were computed.
        before: the value computed before it, if a forecast uses both.
        predictor: how they are continued; None repeats the last one.

    Example:
        >>> import torch
        >>> value = CachedValue((torch.tensor([1.0]),), 900.0).followed_by((torch.tensor([2.0]),), 800.0, LINE)
        >>> value.at(700.0)
        (tensor([3.]),)
    """

    values: Values
    timestep: float
    before: CachedValue | None = None
    predictor: Predictor | None = None

    def followed_by(self, values: Values, timestep: float, predictor: Predictor | None) -> CachedValue:
        """Return a newer value, which keeps as many earlier ones as its predictor uses.

        None are kept where the sampler repeats a timestep (PNDM, Heun) or returns to more noise.

        Args:
            values: tensors [rows, ...] of the newer value.
            timestep: its training timestep.
            predictor: how it is continued; None repeats it.
        """
        more = predictor.keeps - 1 if predictor and timestep < self.timestep else 0
        return CachedValue(values, timestep, self._newest(more), predictor)

    def at(self, timestep: float) -> Values:
        """Return the value at a timestep: the last one, or its forecast."""
        if self.before is None or self.predictor is None:
            return self.values
        known = [*self._series()][::-1]
        weights = self.predictor.weights([-v.timestep / _SPAN + 1 for v in known], 1 - timestep / _SPAN).tolist()
        columns = zip(*(value.values for value in known), strict=True)
        return tuple(None if any(v is None for v in column) else weighted(column, weights) for column in columns)

    def mapped(self, change: Callable[[Values], Values]) -> CachedValue:
        """Return a copy with all values changed, for example moved to another device."""
        return replace(self, values=change(self.values), before=self.before and self.before.mapped(change))

    def tensors(self) -> Iterator[Tensor]:
        """Iterate over all tensors held."""
        for value in self._series():
            yield from (v for v in value.values if v is not None)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for t in self.tensors())

    def _series(self) -> Iterator[CachedValue]:
        """Iterate over this value and the earlier ones, the newest first."""
        value: CachedValue | None = self
        while value is not None:
            yield value
            value = value.before

    def _newest(self, count: int) -> CachedValue | None:
        """Return this value with its earlier ones, `count` in all; None if that is 0."""
        if count < 1:
            return None
        return replace(self, before=self.before._newest(count - 1) if self.before else None)


LINE = PREDICTORS["line"]
"""Continues a value along the straight line through the last two."""
