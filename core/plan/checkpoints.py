"""A list of checkpoint calls made for one run, bound to another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..recipe.checkpoint_lists import PAPER_CALLS
from .run import Positions


@dataclass(frozen=True)
class Checkpoints:
    """A checkpoint list bound to one run: tells at which calls pairs are searched anew.

    calls: indices in a run of `of` calls. timesteps: those of the actual run, None when its calls are not known ahead.
    """

    calls: tuple[int, ...]
    of: int = PAPER_CALLS
    absolute: bool = False
    timesteps: tuple[float, ...] | None = None
    positions: Positions = field(default_factory=Positions)

    def planned(self) -> frozenset[int]:
        """Checkpoint calls of a planned run: each entry goes to the call nearest in position; 0 is always one.

        A full run of as many calls as the list was made for takes it as it stands, so that repeated timesteps (PLMS)
        do not shift it.
        """
        steps = self.timesteps or ()
        if self.absolute or (len(steps) == self.of and self.positions.is_full(steps)):
            return frozenset({0, *(c for c in self.calls if c < len(steps))})
        at = [self.positions.at(t) for t in steps]
        return frozenset({0, *(_nearest(at, c / (self.of - 1)) for c in self.calls if c < self.of)})

    def crossed(self, before: float, now: float) -> bool:
        """For a run whose calls are not known: does an entry lie in the positions (before, now]?

        Both positions are rounded to the list's own grid. Going back up in noise (`now < before`) always fires.
        """
        if now < before:
            return True
        lo, hi = round(before * (self.of - 1)), round(now * (self.of - 1))
        return bisect_right(self.calls, hi) > bisect_right(self.calls, lo)

    def dropped(self) -> tuple[int, ...]:
        """Entries at or past the end of the run that the list is read for; they never fire."""
        total = len(self.timesteps) if self.absolute and self.timesteps else self.of
        return tuple(c for c in self.calls if c >= total)


def _nearest(positions: Sequence[float], position: float) -> int:
    """The call nearest to a position; of two as near the even one, as Python's `round` has it."""
    return min(range(len(positions)), key=lambda k: (round(abs(positions[k] - position), 9), k % 2))
