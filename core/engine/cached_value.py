"""A block's cached value, or the straight line through its last two values for forecasts.

The engine and mask training share this class, so that a mask runs as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from .block_value import Values, continued

_FARTHEST = 20.0
"""Limit of extrapolation, in distances of the two values: their rounding errors are multiplied by as much."""


@dataclass(frozen=True)
class CachedValue:
    """The last value of a block.

    Args:
        values: tensors [rows, ...] as computed.
        timestep: training timestep at which they were computed.
        before: the value computed before it, if a line goes through both.

    Example:
        >>> import torch
        >>> value = CachedValue((torch.tensor([1.0]),), 900.0).followed_by((torch.tensor([2.0]),), 800.0, forecast=True)
        >>> value.at(700.0)
        (tensor([3.]),)
    """

    values: Values
    timestep: float
    before: CachedValue | None = None

    def followed_by(self, values: Values, timestep: float, forecast: bool) -> CachedValue:
        """Return a newer value, which keeps this one as the other end of its line.

        There is no line where the sampler repeats a timestep (PNDM, Heun) or returns to more noise.

        Args:
            values: tensors [rows, ...] of the newer value.
            timestep: its training timestep.
            forecast: whether to keep this value.
        """
        before = replace(self, before=None) if forecast and timestep < self.timestep else None
        return CachedValue(values, timestep, before)

    def at(self, timestep: float) -> Values:
        """Return the value at a timestep: the last one, or a point on the line through the last two."""
        if self.before is None:
            return self.values
        ahead = (self.timestep - timestep) / (self.before.timestep - self.timestep)
        return continued(self.values, self.before.values, ahead) if abs(ahead) <= _FARTHEST else self.values

    def mapped(self, change: Callable[[Values], Values]) -> CachedValue:
        """Return a copy with both values changed, for example moved to another device."""
        return CachedValue(change(self.values), self.timestep, self.before and self.before.mapped(change))

    def tensors(self) -> Iterator[Tensor]:
        """Iterate over all tensors held."""
        yield from (v for v in self.values if v is not None)
        if self.before is not None:
            yield from self.before.tensors()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(t.nbytes for t in self.tensors())
