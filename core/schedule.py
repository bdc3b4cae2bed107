"""Values per network call: checkpoint lists, and how a list made for one run maps to another.

A *call* is one evaluation of the denoiser, counted from 0 at the noisiest. Published lists are for 50 PLMS steps,
which are 51 calls. *Position* is the common coordinate of all runs: 0 at the noisiest training timestep, 1 at the
cleanest, linear in the timestep.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from .checks import MOST_CALLS
from .errors import RecipeError, shown

PAPER_CALLS = 51

CHECKPOINT_PRESETS: dict[str, tuple[int, ...]] = {
    "config_1": (0, 1, 2, 3, 5, 10, 15, 25, 35),
    "config_2": (0, 10, 11, 12, 15, 20, 25, 30, 35, 45),
    "config_3": (0, 8, 11, 13, 20, 25, 30, 35, 45, 46, 47, 48, 49),
    "config_4": (0, 9, 13, 14, 15, 28, 29, 32, 36, 45),
    "config_adaptive": (0, 1, 5, 7, 10, 12, 15, 35, 40, 45, 46, 47, 48, 49, 50, 51),
    "config_five": (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50),
    "every": tuple(range(PAPER_CALLS)),
}
"""The six lists of CA-ToMe Table II, and `every`: search the pairs anew at each call."""

_FULL_RUN_EDGE = 0.1
_MOST_DIGITS = 9
_MOST_CALL = 10**_MOST_DIGITS - 1


def parse_checkpoints(value: str | Iterable[int]) -> str | tuple[int, ...]:
    """A preset name (kept), or a list of calls given as numbers or as text such as `"0, 8, 11"`; sorted, unique.

    Raises :class:`RecipeError` for anything else.
    """
    if isinstance(value, str):
        name = value.strip().lower()
        if name in CHECKPOINT_PRESETS:
            return name
        value = _numbers(value)
    try:
        calls = list(islice(value, MOST_CALLS + 1))
    except TypeError:
        raise RecipeError(f"checkpoints={shown(value)} is not a list of call numbers such as 0, 8, 11") from None
    if len(calls) > MOST_CALLS:
        raise RecipeError(f"checkpoints has more than {MOST_CALLS} entries: give call numbers such as 0, 8, 11")
    if any(isinstance(c, bool) or not isinstance(c, int) or not 0 <= c <= _MOST_CALL for c in calls):
        raise RecipeError(f"checkpoints={shown(calls)} must be whole numbers from 0 to {_MOST_CALL}, such as 0, 8, 11")
    return tuple(sorted(set(calls)))


def _numbers(text: str) -> list[int]:
    parts = [p for p in text.replace(",", " ").replace(";", " ").split() if p]
    if not parts or not all(p.isascii() and p.isdigit() and len(p) <= _MOST_DIGITS for p in parts):
        names = ", ".join(CHECKPOINT_PRESETS)
        raise RecipeError(
            f"checkpoints {shown(text)} cannot be read: give call numbers such as '0, 8, 11' or one of {names}"
        )
    return [int(p) for p in parts]


def checkpoint_calls(value: str | tuple[int, ...]) -> tuple[int, ...]:
    """The call indices behind a preset name or list."""
    return CHECKPOINT_PRESETS[value] if isinstance(value, str) else value


@dataclass(frozen=True)
class Positions:
    """Turns training timesteps into positions in [0, 1].

    noisiest, cleanest: timesteps that count as positions 0 and 1.
    """

    noisiest: float = 999.0
    cleanest: float = 0.0

    @classmethod
    def of_run(cls, timesteps: Sequence[float], train_steps: float = 1000.0) -> Positions:
        """Positions for a planned run. A run that starts (ends) near the noisy (clean) end is taken to start (end) there,
        so that spacing offsets do not shift a list; one that starts in the middle (img2img) keeps its place."""
        top, slack = train_steps - 1, _FULL_RUN_EDGE * train_steps
        first, last = timesteps[0], timesteps[-1]
        noisiest = first if first >= top - slack and first > last else top
        cleanest = last if last <= slack and first > last else 0.0
        return cls(noisiest, cleanest)

    def at(self, timestep: float) -> float:
        """Position of a timestep, clipped to [0, 1]."""
        span = self.noisiest - self.cleanest
        return min(1.0, max(0.0, (self.noisiest - timestep) / span)) if span > 0 else 0.0

    def is_full(self, timesteps: Sequence[float]) -> bool:
        """True when these timesteps run from the noisiest to the cleanest position."""
        return self.at(timesteps[0]) == 0.0 and self.at(timesteps[-1]) == 1.0


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
