"""A network's output as its prediction and the rest, for forecasts of whole calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def prediction(output: Any) -> Tensor | None:
    """Return the prediction in a network's output [rows, ...]; None if there is none.

    Args:
        output: a tensor; a tuple or list that begins with it; diffusers' output object; or tensors of one shape, one per row
            (Z-Image).

    Example:
        >>> prediction([torch.zeros(4, 8, 8), torch.zeros(4, 8, 8)]).shape
        torch.Size([2, 4, 8, 8])
    """
    first = _first(output)
    if isinstance(first, Tensor):
        return first
    return torch.stack(list(first)) if _is_rows(first) else None


def with_prediction(output: Any, value: Tensor) -> Any:
    """Return an output of the same form with another prediction.

    Args:
        output: as for :func:`prediction`.
        value: the prediction [rows, ...].

    Example:
        >>> with_prediction((torch.zeros(1), "more"), torch.ones(1))
        (tensor([1.]), 'more')
    """
    if isinstance(output, Tensor):
        return value
    if _is_rows(output):
        return type(output)(value.unbind())
    if isinstance(output, Mapping):
        name = next(iter(output))
        return type(output)(**{**output, name: with_prediction(output[name], value)})
    return _sequence(output, [with_prediction(output[0], value), *output[1:]])


def detached(output: Any) -> Any:
    """Return an output of the same form whose prediction is an empty tensor, and whose other tensors are copies.

    Args:
        output: as for :func:`prediction`.

    Example:
        >>> detached((torch.ones(2), torch.ones(1)))
        (tensor([]), tensor([1.]))
    """
    if isinstance(output, Tensor):
        return output.new_empty(0)
    if _is_rows(output):
        return type(output)([x.new_empty(0) for x in output])
    if isinstance(output, Mapping):
        first = next(iter(output))
        return type(output)(**{k: detached(v) if k == first else _copied(v) for k, v in output.items()})
    return _sequence(output, [detached(output[0]), *map(_copied, output[1:])])


def largest_error(forecast: Tensor, truth: Tensor) -> Tensor:
    """Return the largest relative L2 error of a row, a tensor [].

    Args:
        forecast: predictions [rows, ...].
        truth: what they should be [rows, ...].

    Example:
        >>> largest_error(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[1.0, 0.0], [4.0, 0.0]]))
        tensor(0.2500)
    """
    rows, true = forecast.flatten(1).float(), truth.flatten(1).float()
    return ((rows - true).norm(dim=1) / true.norm(dim=1).clamp(min=1e-12)).max()


def _first(output: Any) -> Any:
    if isinstance(output, Mapping) and output:
        output = next(iter(output.values()))
    elif isinstance(output, tuple) and output:
        output = output[0]
    return output


def _is_rows(value: Any) -> bool:
    """Return whether a value is a list of tensors of one shape."""
    rows = isinstance(value, list) and value and all(isinstance(v, Tensor) for v in value)
    return bool(rows) and len({v.shape for v in value}) == 1


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return _sequence(value, map(_copied, value)) if isinstance(value, (list, tuple)) else value


def _sequence(like: Any, values: Iterable[Any]) -> Any:
    """Return values as a list, tuple or named tuple."""
    return getattr(type(like), "_make", type(like))(values)
