"""Which call of the run is this? Read from the timestep and the streams, never by counting forwards.

A *call* is one noise level: the evaluation of the denoiser for all its conds there. Hosts may split one call into several
forwards (short of memory, unequal prompts), evaluate a noise level several times (tiles, context windows, Heun, PLMS), go
back up in noise (restarts) or evaluate between the scheduled timesteps (DPM2, SDE and adaptive samplers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

_TOLERANCE = 1e-3
"""Two timesteps count as the same within this share of the training range."""

_ROUNDING = 1e-3
"""A stream that comes again within this share of the tolerance is at the same noise level still."""


@dataclass(frozen=True)
class Stream:
    """Rows of a batch that belong to one cond: `key` stays the same over the run."""

    key: Hashable
    rows: int


@dataclass(frozen=True)
class Tick:
    """index: the call's number from 0. new: this forward is the first of its call. surprise: a planned run just left its plan.

    turn: how often streams of this forward were evaluated at this call before: 0 is the first time.
    """

    index: int
    new: bool
    surprise: bool = False
    turn: int = 0


class Clock:
    """Counts the calls of one run. `timesteps`: those of the calls to come, where the host knows them.

    A plan that lists a timestep several times in a row (PLMS, Heun in diffusers) announces as many calls. Without a plan,
    the n-th evaluation at one noise level belongs to the same call and is a turn of its own.
    """

    def __init__(self, timesteps: Sequence[float] | None, train_steps: float = 1000.0) -> None:
        """Start before the first call."""
        self.timesteps = tuple(timesteps) if timesteps is not None and len(timesteps) else None
        self.index = -1
        self._last: float | None = None
        self._seen: Counter[Hashable] = Counter()
        self._tolerance = _TOLERANCE * train_steps

    @property
    def planned(self) -> bool:
        """True while the run follows the timesteps that were announced."""
        return self.timesteps is not None

    def tick(self, timestep: float, streams: Sequence[Stream]) -> Tick:
        """Register one forward."""
        keys = {s.key for s in streams}
        turn = max(self._seen[key] for key in keys) if keys else 0
        distance = float("inf") if self._last is None else abs(timestep - self._last)
        again = turn and (distance > _ROUNDING * self._tolerance or self._announced(self.index + 1, timestep))
        if again or distance > self._tolerance:
            return self._advance(timestep, keys)
        self._seen.update(keys)
        return Tick(self.index, new=False, turn=turn)

    def _advance(self, timestep: float, keys: set[Hashable]) -> Tick:
        self.index += 1
        self._last, self._seen = timestep, Counter(keys)
        surprise = self.timesteps is not None and not self._announced(self.index, timestep)
        if surprise:
            self.timesteps = None
        return Tick(self.index, new=True, surprise=surprise)

    def _announced(self, index: int, timestep: float) -> bool:
        """Does the plan have this timestep at call `index`?"""
        steps = self.timesteps or ()
        return index < len(steps) and abs(steps[index] - timestep) <= self._tolerance
