"""Binds a list of checkpoint calls, made for one run, to another run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..recipe.checkpoint_lists import PAPER_CALLS
from .run import Positions


@dataclass(frozen=True)
class Checkpoints:
    """A checkpoint list bound to one run. At a checkpoint the pairs are searched again.

    Args:
        calls: checkpoint calls in a run of `of` calls, from 0.
        of: number of calls that the list was made for.
        absolute: use the calls as they are, without mapping them to the length of this run.
        timesteps: training timestep of each call of this run; None when they are not known.
        positions: positions of this run's timesteps.

    Example:
        >>> steps = tuple(float(t) for t in range(1000, -1, -100))
        >>> sorted(Checkpoints((0, 25), timesteps=steps, positions=Positions(1000.0)).planned())
        [0, 5]
    """

    calls: tuple[int, ...]
    of: int = PAPER_CALLS
    absolute: bool = False
    timesteps: tuple[float, ...] | None = None
    positions: Positions = field(default_factory=Positions)

    def planned(self) -> frozenset[int]:
        """Return the checkpoint calls of a run whose calls are known.

        Each entry goes to the call nearest in position; call 0 is always a checkpoint. A full run with as many calls as
        the list was made for uses the list unchanged, so that repeated timesteps (PLMS) do not shift it.
        """
        steps = self.timesteps or ()
        if self.absolute or (len(steps) == self.of and self.positions.is_full(steps)):
            return frozenset({0, *(c for c in self.calls if c < len(steps))})
        at = [self.positions.at(t) for t in steps]
        return frozenset({0, *(_nearest(at, c / (self.of - 1)) for c in self.calls if c < self.of)})

    def crossed(self, before: float, now: float) -> bool:
        """Return whether an entry lies in the positions (before, now], for runs whose calls are not known.

        Both positions are rounded to the list's own grid. A return to more noise (`now < before`) is always a
        checkpoint.

        Args:
            before: position of the call before, in [0, 1].
            now: position of this call.
        """
        if now < before:
            return True
        lo, hi = round(before * (self.of - 1)), round(now * (self.of - 1))
        return bisect_right(self.calls, hi) > bisect_right(self.calls, lo)

    def dropped(self) -> tuple[int, ...]:
        """Return the entries past the end of the run; they have no effect."""
        total = len(self.timesteps) if self.absolute and self.timesteps else self.of
        return tuple(c for c in self.calls if c >= total)


def _nearest(positions: Sequence[float], position: float) -> int:
    """Return the call nearest to a position; of two equally near, the even one, as Python's `round` does."""
    return min(range(len(positions)), key=lambda k: (round(abs(positions[k] - position), 9), k % 2))
