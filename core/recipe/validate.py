"""Checks of user input. Each raises :class:`RecipeError` in one line of under 300 characters: what, where, what to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from ..errors import RecipeError, SkipstoneError, shown

MOST_CALLS = 10_000
"""Most calls of a run, and most entries of a list."""

MOST_SEED = 2**64 - 1


def known_keys(where: str, data: dict[str, Any], known: set[str]) -> None:
    """Refuse keys that have no meaning.

    Args:
        where: what the keys are of, for the message.
        data: the object that was read.
        known: its possible keys.

    Example:
        >>> known_keys("recipe", {"nmae": "mine"}, {"name"})
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: recipe has unknown key 'nmae': known keys are name
    """
    unknown = next((key for key in data if key not in known), None)
    if unknown is not None:
        raise RecipeError(f"{where} has unknown key {shown(unknown)}: known keys are {', '.join(sorted(known))}")


def as_tuple(name: str, value: Any, error: type[SkipstoneError] = RecipeError) -> tuple[Any, ...]:
    """A list or tuple of at most :data:`MOST_CALLS` entries, as a tuple.

    Args:
        name: of the setting, for the message.
        value: what the user gave.
        error: class of the error that is raised for anything else.

    Example:
        >>> as_tuple("stride", [2, 2])
        (2, 2)
    """
    if not isinstance(value, (list, tuple)):
        raise error(f"{name} must be a list, not {shown(value)}")
    if len(value) > MOST_CALLS:
        raise error(f"{name} has {len(value)} entries: give {MOST_CALLS} at most")
    return tuple(value)


def choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuse a value that is not one of the allowed ones, type included.

    Args:
        name: of the setting, for the message.
        value: what the user gave.
        allowed: the possible values.

    Example:
        >>> choice("split", 1, (True, False))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: split=1 is not one of True, False
    """
    if not any(type(value) is type(a) and value == a for a in allowed):
        raise RecipeError(f"{name}={shown(value)} is not one of {', '.join(map(str, allowed))}")


def number(name: str, value: Any, low: float, high: float, remedy: str) -> None:
    """Refuse what is not a number in [low, high].

    Args:
        name: of the setting, for the message.
        value: what the user gave.
        low, high: smallest and largest number.
        remedy: what to do instead, for the message.

    Example:
        >>> number("threshold", 2, 0.0, 1.0, "0.7 is the paper's choice")
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: threshold=2 is outside [0, 1]: 0.7 is the paper's choice
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RecipeError(f"{name}={shown(value)} is outside [{low:g}, {high:g}]: {remedy}")


def integer(name: str, value: Any, low: int, remedy: str, high: int = MOST_CALLS) -> None:
    """Refuse what is not a whole number in [low, high].

    Args:
        name: of the setting, for the message.
        value: what the user gave.
        low, high: smallest and largest number.
        remedy: what to do instead, for the message.

    Example:
        >>> integer("every", 0, 1, "3 is usual")
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: every=0 must be a whole number from 1 on: 3 is usual
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RecipeError(f"{name}={shown(value)} must be a whole number from {low} on: {remedy}")
    if value > high:
        raise RecipeError(f"{name}={shown(value)} is above {high}: {remedy}")


def text(name: str, value: Any, most: int, error: type[SkipstoneError] = RecipeError) -> None:
    """Refuse what is not printable text: control characters and lone surrogates cannot be written or shown.

    Args:
        name: of the setting, for the message.
        value: what the user gave.
        most: number of characters allowed.
        error: class of the error that is raised.

    Example:
        >>> text("name", "a" * 300, 200)
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: name has 300 characters: give 200 at most
    """
    if not isinstance(value, str):
        raise error(f"{name} must be text, not {shown(value)}")
    if len(value) > most:
        raise error(f"{name} has {len(value)} characters: give {most} at most")
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in value):
        raise error(f"{name}={shown(value)} has characters that cannot be shown: use plain text")


def check_window(start: float, end: float) -> None:
    """Refuse a window that ends before it starts.

    Args:
        start: first position of the window in the run, from 0 (the noisiest call) to 1.
        end: last position.

    Example:
        >>> check_window(0.8, 0.2)
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: start=0.8 is after end=0.2: give start <= end
    """
    if start > end:
        raise RecipeError(f"start={start:g} is after end={end:g}: give start <= end")


def check_stride(stride: tuple[Any, ...]) -> None:
    """Refuse a cell size that is not two numbers, rows and columns.

    Example:
        >>> check_stride((2,))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: stride=[2] must have two numbers (rows, columns), for instance [2, 2]
    """
    if len(stride) != 2:
        raise RecipeError(f"stride={shown(list(stride))} must have two numbers (rows, columns), for instance [2, 2]")
