"""The value of a block, as a tuple of tensors: its output, or the difference it makes to its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Values = tuple[Tensor | None, ...]
"""A block's output, or what it adds to its inputs: one or several tensors [rows, ...]."""


def as_values(output: Any) -> Values:
    """Return a block's output as a tuple.

    Example:
        >>> as_values("output")
        ('output',)
    """
    return output if isinstance(output, tuple) else (output,)


def added(inputs: Values, values: Values) -> Values:
    """Return inputs + values.

    Args:
        inputs: what the block's outputs continue; None for an output that continues nothing.
        values: the block's differences; fewer than the inputs belong to the last ones.

    Example:
        >>> import torch
        >>> added((torch.ones(2), torch.zeros(2)), (torch.full((2,), 5.0),))
        (tensor([5., 5.]),)
    """
    return _paired(torch.add, values, inputs)


def subtracted(values: Values, inputs: Values) -> Values:
    """Return values - inputs, the inverse of :func:`added`.

    Args:
        values: the block's outputs; fewer than the inputs belong to the last ones.
        inputs: what the outputs continue; None for an output that continues nothing.

    Example:
        >>> import torch
        >>> subtracted((torch.full((2,), 5.0),), (torch.ones(2),))
        (tensor([4., 4.]),)
    """
    return _paired(torch.sub, values, inputs)


def cloned(values: Values) -> Values:
    """Return copies, because hosts edit tensors in place.

    Example:
        >>> import torch
        >>> x = torch.ones(2)
        >>> cloned((x, None))[0] is x
        False
    """
    return tuple(None if v is None else v.clone() for v in values)


def as_output(values: Values, kwargs: dict[str, Any]) -> Any:
    """Return values in the form of the block's own output: a tuple for several, or if it was called with return_dict=False.

    Args:
        values: one or several tensors.
        kwargs: keyword arguments of the block's call.

    Example:
        >>> as_output(("x",), {}), as_output(("x",), {"return_dict": False})
        ('x', ('x',))
    """
    several = len(values) > 1 or kwargs.get("return_dict") is False
    return values if several else values[0]


def _paired(join: Callable[[Tensor, Tensor], Tensor], values: Values, inputs: Values) -> Values:
    pairs = zip(values, inputs[-len(values) :], strict=True)
    return tuple(v if v is None or x is None else join(v, x) for v, x in pairs)
