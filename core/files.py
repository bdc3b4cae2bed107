"""Files that are whole or absent: each is written beside its target and renamed, so that an earlier file survives a failure."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FileError, SkipstoneError, reason_of, shown_path

if TYPE_CHECKING:
    from torch import Tensor


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text. Raises :class:`FileError`; an earlier file of that name then stays as it was."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file. Raises :class:`FileError`; an earlier file of that name then stays as it was."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole_file(path) as part:
        try:
            save_file(dict(tensors), str(part), metadata=dict(metadata))
        except SafetensorError as error:
            raise OSError(str(error)) from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The path of a part file beside `path`, with the same suffix; it takes the place of `path` when the block ends well.

    Links are followed. Raises :class:`FileError` for what the disk or the file's format refuses.
    """
    try:
        target = Path(os.path.realpath(path))
        part = target.with_name(f".skipstone-{secrets.token_hex(4)}.part{target.suffix}")
        try:
            yield part
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except SkipstoneError:
        raise
    except (OSError, ValueError) as error:
        raise _refused(path, error) from None


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, where they are missing. Raises :class:`FileError`."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: str | Path, error: Exception) -> FileError:
    return FileError(
        f"cannot write {shown_path(path)} ({reason_of(error)}): choose a folder that exists, may be written to and has room"
    )
