"""Checks of user input. Each raises :class:`RecipeError` in one line: what, where, what to do."""

from __future__ import annotations

from typing import Any

from .errors import RecipeError


def known_keys(where: str, data: dict[str, Any], known: set[str]) -> None:
    """Refuse keys that nobody reads."""
    unknown = sorted(set(data) - known)
    if unknown:
        raise RecipeError(f"{where} has unknown key {unknown[0]!r}: known keys are {', '.join(sorted(known))}")


def as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    """A list or tuple, as a tuple."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    raise RecipeError(f"{name} must be a list, not {value!r}")


def choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """One of the allowed values, of the same type."""
    if not any(value == a and type(value) is type(a) for a in allowed):
        raise RecipeError(f"{name}={value!r} is not one of {', '.join(map(str, allowed))}")


def number(name: str, value: Any, low: float, high: float, remedy: str) -> None:
    """A number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise RecipeError(f"{name}={value!r} is outside [{low:g}, {high:g}]: {remedy}")


def integer(name: str, value: Any, low: int, remedy: str) -> None:
    """A whole number from `low` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RecipeError(f"{name}={value!r} must be a whole number from {low} on: {remedy}")


def window(start: Any, end: Any) -> None:
    """Two positions of a run, start before end."""
    for name, value in (("start", start), ("end", end)):
        number(name, value, 0.0, 1.0, "0 is the noisiest call, 1 the last")
    if start > end:
        raise RecipeError(f"start={start:g} is after end={end:g}: give start <= end")


def stride_pair(stride: tuple[Any, ...]) -> None:
    """A cell size: two whole numbers from 1 on."""
    if len(stride) != 2:
        raise RecipeError(f"stride={list(stride)} must have two numbers (rows, columns), for instance [2, 2]")
    for value in stride:
        integer("stride", value, 1, "the paper uses 2")
