"""Finds the call that a forward belongs to, from its timestep and streams. Forwards are not counted.

A *call* is one noise level: the denoiser, evaluated for all conds. A host may split a call into several forwards (little
memory, unequal prompts), evaluate a noise level several times (tiles, context windows, Heun, PLMS), return to more noise
(restarts) or evaluate between the scheduled timesteps (DPM2, SDE and adaptive samplers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

_TOLERANCE = 1e-3
"""Timesteps that differ by less than this share of the training range are equal."""

_ROUNDING = 1e-3
"""A stream that repeats within this share of the tolerance is at the same noise level."""


@dataclass(frozen=True)
class Stream:
    """Rows of a batch that belong to one cond.

    Args:
        key: identifies the cond over the whole run.
        rows: number of rows.

    Example:
        >>> batch = Stream("cond", rows=2), Stream("uncond", rows=2)  # a batch of four
        >>> [stream.key for stream in batch]
        ['cond', 'uncond']
    """

    key: Hashable
    rows: int


@dataclass(frozen=True)
class Tick:
    """The call of one forward.

    Args:
        index: number of the call, from 0.
        new: whether this forward is the first of its call.
        surprise: whether the run left its announced calls at this forward.
        turn: how often streams of this forward were evaluated at this call before.

    Example:
        >>> Clock((999.0, 500.0)).tick(999.0, (Stream("cond", 1),))
        Tick(index=0, new=True, surprise=False, turn=0)
    """

    index: int
    new: bool
    surprise: bool = False
    turn: int = 0


class Clock:
    """Counts the calls of one run.

    A list of calls that repeats a timestep (PLMS, Heun in diffusers) announces as many calls. Without a list, repeated
    evaluations at one noise level belong to one call, each with its own turn.

    Args:
        timesteps: training timestep of each call to come; None when the host does not know them.
        train_steps: number of training timesteps.

    Example:
        >>> clock, cond = Clock(None), (Stream("cond", 1),)
        >>> [clock.tick(t, cond).index for t in (999.0, 999.0, 500.0)]
        [0, 0, 1]
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
        """Whether the run still follows the announced timesteps."""
        return self.timesteps is not None

    def tick(self, timestep: float, streams: Sequence[Stream]) -> Tick:
        """Register one forward and return its call.

        Args:
            timestep: training timestep.
            streams: whose rows the forward evaluates.
        """
        keys = {s.key for s in streams}
        turn = max(self._seen[key] for key in keys) if keys else 0
        distance = float("inf") if self._last is None else abs(timestep - self._last)
        # A repeated stream is a new call only if time moved at all, or if the list of calls repeats the timestep.
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
        """Return whether the list of calls has this timestep at call `index`."""
        steps = self.timesteps or ()
        return index < len(steps) and abs(steps[index] - timestep) <= self._tolerance
