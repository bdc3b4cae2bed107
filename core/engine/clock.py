"""Which call of the run is this? Read from the timestep and the streams, never by counting forwards.

A *call* is one evaluation of the denoiser for all its conds. Hosts may split one call into several forwards (short of
memory, unequal prompts), evaluate a timestep twice (Heun, PLMS), go back up in noise (restarts) or evaluate between
the scheduled timesteps (DPM2, SDE and adaptive samplers).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

_TOLERANCE = 1e-3
"""Two timesteps count as the same within this share of the training range."""


@dataclass(frozen=True)
class Stream:
    """Rows of a batch that belong to one cond: `key` stays the same over the run."""

    key: Hashable
    rows: int


@dataclass(frozen=True)
class Tick:
    """index: the call's number from 0. new: this forward is the first of its call. surprise: a planned run just left its plan."""

    index: int
    new: bool
    surprise: bool = False


class Clock:
    """Counts the calls of one run. `timesteps`: those of the calls to come, where the host knows them."""

    def __init__(self, timesteps: Sequence[float] | None, train_steps: float = 1000.0) -> None:
        """Start before the first call."""
        self.timesteps = tuple(timesteps) if timesteps is not None and len(timesteps) else None
        self.index = -1
        self._last: float | None = None
        self._seen: set[Hashable] = set()
        self._tolerance = _TOLERANCE * train_steps

    @property
    def planned(self) -> bool:
        """True while the run follows the timesteps that were announced."""
        return self.timesteps is not None

    def tick(self, timestep: float, streams: Sequence[Stream]) -> Tick:
        """Register one forward."""
        keys = {s.key for s in streams}
        moved = self._last is None or abs(timestep - self._last) > self._tolerance
        if not moved and not keys & self._seen:
            self._seen |= keys
            return Tick(self.index, new=False)
        self.index += 1
        self._last, self._seen = timestep, set(keys)
        return Tick(self.index, new=True, surprise=self._leaves_plan(timestep))

    def _leaves_plan(self, timestep: float) -> bool:
        if self.timesteps is None:
            return False
        if self.index < len(self.timesteps) and abs(self.timesteps[self.index] - timestep) <= self._tolerance:
            return False
        self.timesteps = None
        return True
