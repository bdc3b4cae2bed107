"""A block's cached value: what it made last, and the straight line through its last two values where forecasts need it.

The engine and mask training hold their values in this one class, so that a mask runs as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from .block_value import Values, continued

_FARTHEST = 20.0
"""A line reaches at most so many times the distance of its two values: it multiplies their rounding errors by as much."""


@dataclass(frozen=True)
class CachedValue:
    """values: as made at a timestep. before: the value made before it, where a line can be drawn through both."""

    values: Values
    timestep: float
    before: CachedValue | None = None

    def followed_by(self, values: Values, timestep: float, forecast: bool) -> CachedValue:
        """A newer value, which keeps this one as the other end of its line.

        Samplers may repeat a timestep (PNDM, Heun) or go back up: there is no line through such two values.
        """
        before = replace(self, before=None) if forecast and timestep < self.timestep else None
        return CachedValue(values, timestep, before)

    def at(self, timestep: float) -> Values:
        """The value, or the straight line through the last two, at a timestep."""
        if self.before is None:
            return self.values
        ahead = (self.timestep - timestep) / (self.before.timestep - self.timestep)
        return continued(self.values, self.before.values, ahead) if abs(ahead) <= _FARTHEST else self.values

    def mapped(self, change: Callable[[Values], Values]) -> CachedValue:
        """The same with both values changed, as to another device."""
        return CachedValue(change(self.values), self.timestep, self.before and self.before.mapped(change))

    def tensors(self) -> Iterator[Tensor]:
        """All tensors held."""
        yield from (v for v in self.values if v is not None)
        if self.before is not None:
            yield from self.before.tensors()

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.nbytes for t in self.tensors())
