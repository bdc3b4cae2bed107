"""Lists of calls at which pairs are searched: those that CA-ToMe published, and the user's own.

A *call* is one evaluation of the denoiser, counted from 0 at the noisiest. The published lists are for 50 PLMS steps,
which are 51 calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ..errors import RecipeError, shown
from .validate import MOST_CALLS

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
"""The six lists of CA-ToMe (arXiv 2501.00946, Table II), and `every`: search pairs at every call."""

_MOST_DIGITS = 9
_MOST_CALL = 10**_MOST_DIGITS - 1


def parse_checkpoints(value: str | Iterable[int]) -> str | tuple[int, ...]:
    """A preset's name as it is, or a list of calls, sorted and without repeats.

    Raises :class:`RecipeError` for anything else.

    Example:
        >>> parse_checkpoints("config_3"), parse_checkpoints("11, 0, 8"), parse_checkpoints([8, 0, 8])
        ('config_3', (0, 8, 11), (0, 8))
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
    """The calls of a preset's name or a list.

    Example:
        >>> checkpoint_calls("config_1")
        (0, 1, 2, 3, 5, 10, 15, 25, 35)
    """
    return CHECKPOINT_PRESETS[value] if isinstance(value, str) else value
