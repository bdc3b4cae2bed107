"""The errors that Skipstone raises. Each message is one line: what is wrong, where, and what to do.

Example:
    >>> raise RecipeError("every=0 must be a whole number from 1 on: 3 is usual")
    Traceback (most recent call last):
    skipstone.core.errors.RecipeError: every=0 must be a whole number from 1 on: 3 is usual
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any


class SkipstoneError(ValueError):
    """Base class of the errors for users. Hosts catch it, show its message once, and run unaccelerated."""


class RecipeError(SkipstoneError):
    """A recipe, preset, schedule or setting that cannot be read or used."""


class ModelError(SkipstoneError):
    """A model that is not supported."""


class MaskError(SkipstoneError):
    """A mask or mask file that cannot be read or does not fit the model."""


class ProfileError(SkipstoneError):
    """A profile that cannot be read or does not fit the run."""


class FileError(SkipstoneError):
    """A file that cannot be written."""


class Decline(Exception):
    """Raised inside a forward for a layer that must run unaccelerated. The report has the reason.

    Args:
        reason: one line.
        timestep: of a forward that is declined as a whole, if known: several forwards at one timestep are one call.
    """

    def __init__(self, reason: str, timestep: float | None = None) -> None:
        super().__init__(reason)
        self.timestep = timestep


_MOST_SHOWN = 40


class _Short(reprlib.Repr):
    """A short `repr` for values whose own one fails: numbers of thousands of digits, endless nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, _MOST_SHOWN, _MOST_SHOWN

    def repr_int(self, value: int, level: int) -> str:
        return str(value) if value.bit_length() <= 128 else f"<whole number of {value.bit_length()} bits>"


def shown(value: Any) -> str:
    """A value for a message: one line of about 40 characters, unprintable ones escaped.

    Example:
        >>> shown("two\\nlines"), shown(10**1000)
        ("'two\\\\nlines'", '<whole number of 3322 bits>')
    """
    text = _printable(_Short().repr(value))
    return text if len(text) <= _MOST_SHOWN + 2 else text[:_MOST_SHOWN] + "…"


def shown_path(path: str | Path, most: int = 120) -> str:
    """A path for a message: one line, unprintable characters escaped, and only the end of a long path.

    Args:
        path: the path.
        most: number of characters that are shown.

    Example:
        >>> shown_path("masks/mine.safetensors", most=12)
        "'…safetensors'"
    """
    text = repr(str(path))
    return text if len(text) <= most else "'…" + text[-most:]


def reason_of(error: BaseException) -> str:
    """The message of a system's or library's error, in one line of about 80 characters.

    Example:
        >>> reason_of(FileNotFoundError(2, "No such file or directory", "mine.json"))
        'No such file or directory'
    """
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return _printable(text if len(text) <= 80 else text[:80] + "…")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
