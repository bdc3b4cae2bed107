"""Arguments of a network by row: what differs between the samples of a batch, and how rows are picked and joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """What differs between the rows of a batch.

    Args:
        value: a tensor [rows, ...], or a list with an entry for each row.

    Example:
        >>> len(Rows(torch.tensor([3, 8])).value)
        2
    """

    value: Any


def by_row(value: Any, rows: int) -> Any:
    """Return arguments with :class:`Rows` in place of what has an entry for each row.

    Args:
        value: a tensor, a dict, list or tuple of arguments, or any other value.
        rows: of the batch.

    Example:
        >>> found = by_row({"labels": torch.tensor([3, 8]), "scale": 2.0}, rows=2)
        >>> found["labels"].value.tolist(), found["scale"]
        ([3, 8], 2.0)
    """
    if isinstance(value, Tensor):
        return Rows(value) if value.ndim and len(value) == rows else value
    if isinstance(value, dict):
        return {name: by_row(item, rows) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return Rows(list(value)) if len(value) == rows else type(value)(by_row(item, rows) for item in value)
    return value


def picked(parts: Sequence[Any], which: list[int]) -> Any:
    """Return arguments of some rows of each part, in one batch.

    Args:
        parts: arguments by row, of the same kind.
        which: numbers of rows.

    Example:
        >>> cond, empty = Rows(torch.tensor([3, 8])), Rows(torch.tensor([0, 0]))
        >>> picked([empty, cond], which=[1])
        tensor([0, 8])
    """
    first = parts[0]
    if isinstance(first, Rows):
        if isinstance(first.value, Tensor):
            return torch.cat([part.value[which] for part in parts])
        return [part.value[i] for part in parts for i in which]
    if isinstance(first, dict):
        return {name: picked([part[name] for part in parts], which) for name in first}
    if isinstance(first, (list, tuple)):
        return type(first)(picked(group, which) for group in zip(*parts, strict=True))
    return first


def equal(one: Any, other: Any) -> bool:
    """Return whether arguments are the same.

    Args:
        one: arguments, by row or not.
        other: further ones.

    Example:
        >>> equal({"labels": Rows([3, 8])}, {"labels": Rows([3, 8])}), equal([torch.zeros(1)], [torch.ones(1)])
        (True, False)
    """
    if isinstance(one, Rows) and isinstance(other, Rows):
        return equal(one.value, other.value)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and bool(torch.equal(one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def without(arguments: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return arguments without some.

    Args:
        arguments: by name.
        names: those that are left out.

    Example:
        >>> without({"x": 1, "t": 2}, ["t"])
        {'x': 1}
    """
    return {name: value for name, value in arguments.items() if name not in names}
