"""Checks of user input. Each raises :class:`RecipeError` in one line of under 300 characters: what, where, what to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from ..errors import RecipeError, SkipstoneError, shown

MOST_CALLS = 10_000
"""No run has more calls, no list more entries."""

MOST_SEED = 2**64 - 1


def known_keys(where: str, data: dict[str, Any], known: set[str]) -> None:
    """Refuse keys that mean nothing."""
    unknown = next((key for key in data if key not in known), None)
    if unknown is not None:
        raise RecipeError(f"{where} has unknown key {shown(unknown)}: known keys are {', '.join(sorted(known))}")


def as_tuple(name: str, value: Any, error: type[SkipstoneError] = RecipeError) -> tuple[Any, ...]:
    """A list or tuple of at most :data:`MOST_CALLS` entries, as a tuple."""
    if not isinstance(value, (list, tuple)):
        raise error(f"{name} must be a list, not {shown(value)}")
    if len(value) > MOST_CALLS:
        raise error(f"{name} has {len(value)} entries: give {MOST_CALLS} at most")
    return tuple(value)


def choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """One of the allowed values, of the same type."""
    if not any(type(value) is type(a) and value == a for a in allowed):
        raise RecipeError(f"{name}={shown(value)} is not one of {', '.join(map(str, allowed))}")


def number(name: str, value: Any, low: float, high: float, remedy: str) -> None:
    """A number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RecipeError(f"{name}={shown(value)} is outside [{low:g}, {high:g}]: {remedy}")


def integer(name: str, value: Any, low: int, remedy: str, high: int = MOST_CALLS) -> None:
    """A whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RecipeError(f"{name}={shown(value)} must be a whole number from {low} on: {remedy}")
    if value > high:
        raise RecipeError(f"{name}={shown(value)} is above {high}: {remedy}")


def text(name: str, value: Any, most: int, error: type[SkipstoneError] = RecipeError) -> None:
    """Text of at most `most` characters that can be written and shown: no control characters, no lone surrogates."""
    if not isinstance(value, str):
        raise error(f"{name} must be text, not {shown(value)}")
    if len(value) > most:
        raise error(f"{name} has {len(value)} characters: give {most} at most")
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in value):
        raise error(f"{name}={shown(value)} has characters that cannot be shown: use plain text")


def check_window(start: float, end: float) -> None:
    """Two positions of a run, start before end."""
    if start > end:
        raise RecipeError(f"start={start:g} is after end={end:g}: give start <= end")


def stride_pair(stride: tuple[Any, ...]) -> None:
    """A cell size: two whole numbers from 1 on."""
    if len(stride) != 2:
        raise RecipeError(f"stride={shown(list(stride))} must have two numbers (rows, columns), for instance [2, 2]")
