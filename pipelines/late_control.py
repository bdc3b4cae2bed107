"""A pipeline's ControlNet runs before the network. Here it waits until its output is used, and a skipped call uses none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ..core.engine.override import Override


class LateTensor(Tensor):
    """A tensor that is computed when it is first used, in an operation or by its attributes.

    Example:
        >>> late = LateTensor.of(lambda: torch.ones(2))
        >>> late + 1, late.shape
        (tensor([2., 2.]), torch.Size([2]))
    """

    make: Callable[[], Tensor]

    @classmethod
    def of(cls, make: Callable[[], Tensor]) -> LateTensor:
        """Return a tensor that `make` computes; each use calls it."""
        late: LateTensor = torch.Tensor._make_subclass(cls, torch.empty(0))
        late.make = make
        return late

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the computed tensors."""
        return func(*resolved(args), **resolved(kwargs or {}))


def resolved(value: Any) -> Any:
    """Return a value with the computed tensors in place of late ones, in lists, tuples and dicts of these.

    Example:
        >>> resolved(([LateTensor.of(lambda: torch.ones(1))], "other"))
        ([tensor([1.])], 'other')
    """
    if type(value) is dict:
        return {name: resolved(one) for name, one in value.items()}
    return _mapped(value, LateTensor, lambda late: late.make())


class LateControl:
    """Makes a ControlNet late until :meth:`remove`. Its first forward runs at once, and shows the form of its output.

    Args:
        net: the ControlNet of a pipeline.

    Example:
        >>> net = nn.Identity()
        >>> net.forward = lambda x, return_dict: (print("runs"), ([x], 2 * x))[1]
        >>> late, x = LateControl(net), torch.ones(1)
        >>> with torch.no_grad():
        ...     first, second = net(x, return_dict=False), net(x, return_dict=False)
        runs
        >>> late.remove(), second[1] + 0
        runs
        (None, tensor([2.]))
    """

    def __init__(self, net: nn.Module) -> None:
        """Install."""
        self._form: Any = None
        self._override = Override(net, self._around, repeats=True, threads=True)
        self._override.install()

    def remove(self) -> None:
        """Restore the ControlNet."""
        self._override.remove()

    def _around(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or kwargs.get("return_dict", True):
            return inner(*args, **kwargs)
        if self._form is None:
            output, numbers = inner(*args, **kwargs), count()
            self._form = _mapped(output, Tensor, lambda tensor: next(numbers))
            return output
        made = cache(lambda: _flat(inner(*args, **kwargs)))
        return _mapped(self._form, int, lambda number: LateTensor.of(lambda: made()[number]))


def _mapped(value: Any, kind: type[Any], change: Callable[[Any], Any]) -> Any:
    """Return a structure of lists and tuples with everything of a kind changed."""
    if isinstance(value, kind):
        return change(value)
    return type(value)(_mapped(one, kind, change) for one in value) if type(value) in (list, tuple) else value


def _flat(output: Any) -> list[Tensor]:
    """Return the tensors of an output, in order."""
    found: list[Tensor] = []
    _mapped(output, Tensor, found.append)
    return found
