"""The errors that Skipstone raises: one type per kind of trouble, each message one line that names the remedy."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any


class SkipstoneError(ValueError):
    """Base of all errors raised on purpose. Hosts catch it, show it once, and run unaccelerated."""


class RecipeError(SkipstoneError):
    """A recipe, preset or schedule that cannot be read or makes no sense."""


class ModelError(SkipstoneError):
    """A model that Skipstone cannot serve."""


class MaskError(SkipstoneError):
    """A mask, or mask file, that cannot be read or does not fit the model."""


class FileError(SkipstoneError):
    """A file that cannot be written."""


class Decline(Exception):
    """Raised inside a call by one layer that cannot be served; that layer runs unaccelerated and the reason is reported."""


_MOST_SHOWN = 40


class _Short(reprlib.Repr):
    """Short also where the plain `repr` fails: whole numbers of thousands of digits, endless nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, _MOST_SHOWN, _MOST_SHOWN

    def repr_int(self, value: int, level: int) -> str:
        return str(value) if value.bit_length() <= 128 else f"<whole number of {value.bit_length()} bits>"


def shown(value: Any) -> str:
    """A value as messages quote it: at most 40 characters in one line, unprintable ones escaped."""
    text = _printable(_Short().repr(value))
    return text if len(text) <= _MOST_SHOWN + 2 else text[:_MOST_SHOWN] + "…"


def shown_path(path: str | Path, most: int = 120) -> str:
    """A path as messages quote it: in one line, unprintable characters escaped, a long one by its end."""
    text = repr(str(path))
    return text if len(text) <= most else "'…" + text[-most:]


def reason_of(error: BaseException) -> str:
    """What an error of the system or of a file format says, in about 80 characters of one line."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return _printable(text if len(text) <= 80 else text[:80] + "…")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
