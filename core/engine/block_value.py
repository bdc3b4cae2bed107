"""What a block hands on: its output, or the difference it makes to its inputs, as a tuple of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..models.graph import Block

Values = tuple[Tensor | None, ...]
"""A block's output, or what it adds to its inputs: one tensor [rows, ...], or several."""


def as_values(output: Any) -> Values:
    """A block's output as a tuple."""
    return output if isinstance(output, tuple) else (output,)


def carried(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    """The inputs that a block's outputs continue."""
    return tuple(kwargs[name] if name in kwargs else args[place] for name, place in block.carries)


def added(inputs: tuple[Tensor, ...], values: Values) -> Values:
    """inputs + values, where a block with fewer outputs than carried inputs continues the last of them."""
    return tuple(None if v is None else x + v for x, v in zip(inputs[-len(values) :], values, strict=True))


def subtracted(values: Values, inputs: tuple[Tensor, ...]) -> Values:
    """values - inputs: the inverse of :func:`added`."""
    return tuple(None if v is None else v - x for v, x in zip(values, inputs[-len(values) :], strict=True))


def cloned(values: Values) -> Values:
    """Tensors of their own: hosts edit in place."""
    return tuple(None if v is None else v.clone() for v in values)


def continued(last: Values, before: Values, ahead: float) -> Values:
    """A straight line through two values, `ahead` times their distance beyond the last."""
    pairs = zip(last, before, strict=True)
    return tuple(None if v is None or w is None else torch.lerp(w, v, 1 + ahead) for v, w in pairs)


def as_output(values: Values, kwargs: dict[str, Any]) -> Any:
    """As the block itself would give it: a tuple where it has several outputs, or was told return_dict=False."""
    several = len(values) > 1 or kwargs.get("return_dict") is False
    return values if several else values[0]
