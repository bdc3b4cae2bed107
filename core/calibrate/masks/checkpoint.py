"""Checkpoint files of trainings: numbers and tensors in one safetensors file, written atomically and checked before use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import MaskError
from ...files import make_folder, write_safetensors

FORMAT_VERSION = 2
LARGEST = 1e30
_MOST_HEAD = 1 << 26
"""Characters of a header: more than the history of a million passes."""

Limits = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Content:
    """What a checkpoint file holds.

    Args:
        head: plain values for JSON.
        tensors: by name.

    Example:
        >>> Content({"done": 3}, {}).head["done"]
        3
    """

    head: dict[str, Any]
    tensors: dict[str, Tensor]


def write_checkpoint(path: Path, content: Content) -> None:
    """Write a checkpoint file, and the folders above it.

    Args:
        path: of the file.
        content: to write.

    Raises :class:`FileError`; an earlier file is then unchanged.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_checkpoint(Path(folder, "run", "a.safetensors"), Content({"done": 3}, {}))
        ...     read_checkpoint(Path(folder, "run", "a.safetensors")).head
        {'skipstone_training': 2, 'done': 3}
    """
    make_folder(path.parent)
    head = {"skipstone_training": FORMAT_VERSION, **content.head}
    write_safetensors(path, content.tensors, {"training": json.dumps(head)})


def read_checkpoint(path: Path) -> Content:
    """Read a checkpoint file. Raises :class:`MaskError` if it is not a checkpoint of this version.

    Example:
        >>> read_checkpoint(Path("no such file"))
        Traceback (most recent call last):
        skipstone.core.errors.MaskError: is no training checkpoint of Skipstone
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            notes = (file.metadata() or {})["training"]
            if len(notes) > _MOST_HEAD:
                raise MaskError("has a header that is too long")
            head, tensors = json.loads(notes), {name: file.get_tensor(name) for name in file.keys()}
    except MaskError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError):
        raise MaskError("is no training checkpoint of Skipstone") from None
    if not isinstance(head, dict) or head.get("skipstone_training") != FORMAT_VERSION:
        raise MaskError("is of another version of Skipstone")
    return Content(head, tensors)


def check_numbers(head: Mapping[str, Any], limits: Limits) -> None:
    """Raise :class:`MaskError` if a number is missing or outside its limits.

    Args:
        head: plain values by name.
        limits: (lowest, highest) by name.

    Example:
        >>> check_numbers({"share": 2.0}, {"share": (0.0, 1.0)})
        Traceback (most recent call last):
        skipstone.core.errors.MaskError: has no number for share
    """
    for name, (low, high) in limits.items():
        value: Any = head.get(name)
        if not is_number(value) or not low <= value <= high:
            raise MaskError(f"has no number for {name}")


def is_number(value: Any) -> bool:
    """Return whether a value is an int or a float; bool is neither.

    Example:
        >>> is_number(1.5), is_number(True)
        (True, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_tensors(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], limits: Limits) -> None:
    """Raise :class:`MaskError` if a tensor is missing, has another shape or dtype, or is outside its limits.

    Args:
        tensors: to check, by name.
        like: tensors of the right shape and dtype, by name.
        limits: (lowest, highest) by name; :data:`LARGEST` without an entry.

    Example:
        >>> import torch
        >>> check_tensors({"p": torch.tensor([2.0])}, like={"p": torch.zeros(1)}, limits={"p": (0.0, 1.0)})
        Traceback (most recent call last):
        skipstone.core.errors.MaskError: has broken values of p
    """
    for name, wanted in like.items():
        if name not in tensors:
            raise MaskError(f"lacks {name}")
        found, (low, high) = tensors[name], limits.get(name, (-LARGEST, LARGEST))
        fits = found.shape == wanted.shape and found.dtype == wanted.dtype
        if not fits or not bool(((found >= low) & (found <= high)).all()):
            raise MaskError(f"has broken values of {name}")
