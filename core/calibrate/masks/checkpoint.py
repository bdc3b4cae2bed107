"""Checkpoint files: numbers and tensors in a safetensors file, written whole and checked before anything is used."""

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
    """head: plain values for JSON. tensors: by name."""

    head: dict[str, Any]
    tensors: dict[str, Tensor]


def write_checkpoint(path: Path, content: Content) -> None:
    """Write a file; an earlier one is replaced only when the new one is whole. Raises :class:`FileError`."""
    make_folder(path.parent)
    head = {"skipstone_training": FORMAT_VERSION, **content.head}
    write_safetensors(path, content.tensors, {"training": json.dumps(head)})


def read_checkpoint(path: Path) -> Content:
    """Read a file. Raises :class:`MaskError` where it is no checkpoint of this version."""
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
    """Raise :class:`MaskError` where a number is missing or outside its limits."""
    for name, (low, high) in limits.items():
        value: Any = head.get(name)
        if not is_number(value) or not low <= value <= high:
            raise MaskError(f"has no number for {name}")


def is_number(value: Any) -> bool:
    """Whether it is an int or a float; bool is neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_tensors(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], limits: Limits) -> None:
    """Raise :class:`MaskError` where a tensor lacks, or differs from `like` in shape or dtype, or is outside its limits."""
    for name, wanted in like.items():
        if name not in tensors:
            raise MaskError(f"lacks {name}")
        found, (low, high) = tensors[name], limits.get(name, (-LARGEST, LARGEST))
        fits = found.shape == wanted.shape and found.dtype == wanted.dtype
        if not fits or not bool(((found >= low) & (found <= high)).all()):
            raise MaskError(f"has broken values of {name}")
