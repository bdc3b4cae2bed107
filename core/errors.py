"""The errors that Skipstone raises: one type per kind of trouble, each message one line that names the remedy."""

from __future__ import annotations

from pathlib import Path


class SkipstoneError(ValueError):
    """Base of all errors raised on purpose. Hosts catch it, tell the user once, and run dense."""


class RecipeError(SkipstoneError):
    """A recipe, preset or schedule that cannot be read or makes no sense."""


class ModelError(SkipstoneError):
    """A model that Skipstone cannot serve."""


class MaskError(SkipstoneError):
    """A mask, or mask file, that cannot be read or does not fit the model."""


class FileError(SkipstoneError):
    """A file that cannot be written."""


class Decline(Exception):
    """Raised inside a call by one layer that cannot be served; that layer runs dense and the reason is reported."""


def shown_path(path: str | Path, most: int = 120) -> str:
    """A path as messages quote it: in one line, unprintable characters escaped, a long one by its end."""
    text = str(path)
    return repr(text if len(text) <= most else "…" + text[-most:])
