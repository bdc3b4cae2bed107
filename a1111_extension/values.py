"""One argument in the type of its field, as an API client, pasted infotext or a page sends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..core.errors import RecipeError, shown

MOST = 2**53
"""Whole numbers up to here are exact in JSON and in pages."""


def typed(name: str, value: Any, default: Any) -> Any:
    """A value in the type of the field's default: 2.0 and "2" are 2, "true" is True.

    Args:
        name: of the field.
        value: from outside.
        default: of the field.

    Raises :class:`RecipeError` for a value that cannot be converted.
    """
    return _READERS[type(default)](name, value)


def _switch(name: str, value: Any) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(word, (bool, int, str)) or word not in (True, False, "true", "false"):
        raise RecipeError(f"{name}={shown(value)} must be true or false")
    return word in (True, "true")


def _number(name: str, value: Any) -> float:
    if not isinstance(value, bool) and isinstance(value, (int, float, str)):
        with suppress(ValueError, OverflowError):
            return float(value)
    raise RecipeError(f"{name}={shown(value)} must be a number")


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if not abs(number) <= MOST or number != int(number):
        raise RecipeError(f"{name}={shown(value)} must be a whole number")
    return int(number)


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecipeError(f"{name}={shown(value)} must be text")
    return f"{value:g}"


_READERS: dict[type, Callable[[str, Any], Any]] = {bool: _switch, float: _number, int: _whole, str: _text}
