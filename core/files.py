"""Writing files: each is written beside its target and renamed, so that a failure leaves an earlier file as it was."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FileError, SkipstoneError, reason_of, shown_path

if TYPE_CHECKING:
    from torch import Tensor


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8.

    Args:
        path: of the file.
        text: its content.

    Raises :class:`FileError`; an earlier file is then unchanged.

    Example:
        >>> write_text("/no such folder/a.txt", "")
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write '/no such folder/a.txt' (No such file or directory): choose ...
    """
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write plain values as indented JSON.

    Args:
        path: of the file.
        value: dicts, lists, text, numbers, booleans and None.

    Raises :class:`FileError`; an earlier file is then unchanged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_json(Path(folder, "a.json"), {"psnr_db": 31.5})
        ...     json.loads(Path(folder, "a.json").read_text())
        {'psnr_db': 31.5}
    """
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_figure(path: str | Path, figure: Any, dpi: int) -> None:
    """Write a matplotlib figure.

    Args:
        path: of the file; its suffix chooses the format.
        figure: the figure.
        dpi: dots per inch.

    Raises :class:`FileError`; an earlier file is then unchanged.

    Example:
        >>> class Figure:
        ...     def savefig(self, path, dpi):
        ...         path.write_text(f"{dpi} dpi")
        >>> write_figure("/no such folder/a.png", Figure(), dpi=100)
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write '/no such folder/a.png' (No such file or directory): choose ...
    """
    with whole_file(path) as part:
        figure.savefig(part, dpi=dpi)


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file.

    Args:
        path: of the file.
        tensors: name -> tensor; contiguous and without shared memory.
        metadata: name -> text, for the file's header.

    Raises :class:`FileError`; an earlier file is then unchanged.

    Example:
        >>> write_safetensors("/no such folder/a.safetensors", {}, {})
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write '/no such folder/a.safetensors' (...
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with whole_file(path) as part:
        try:
            save_file(dict(tensors), str(part), metadata=dict(metadata))
        except SafetensorError as error:
            raise OSError(str(error)) from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Context manager with the path of a temporary file beside `path`, which replaces `path` unless the block raises.

    It has the suffix of `path`. Symbolic links are followed. Raises :class:`FileError` if the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with whole_file(Path(folder, "a.txt")) as part:
        ...         written = part.write_text("all or nothing")
        ...     os.listdir(folder)
        ['a.txt']
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
    """Make a folder, and the folders above it, if they do not exist.

    Raises :class:`FileError` if they cannot be made.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     make_folder(Path(folder, "a", "b"))
        ...     os.listdir(folder)
        ['a']
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from None


def is_file(path: str | Path) -> bool:
    """Return whether there is a file. A name that no file can have, such as one that is too long, is no error.

    Args:
        path: of the file.

    Example:
        >>> is_file("x" * 5000)
        False
    """
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def file_in(folder: Path, name: str) -> str:
    """Return the path of a file in a folder, or its name as it is if it is not there.

    Args:
        folder: where to look.
        name: of the file.

    Example:
        >>> file_in(Path("no such folder"), "mine.safetensors")
        'mine.safetensors'
    """
    return str(folder / name) if name and is_file(folder / name) else name


def _refused(path: str | Path, error: Exception) -> FileError:
    return FileError(
        f"cannot write {shown_path(path)} ({reason_of(error)}): choose a folder that exists, may be written to and has room"
    )
