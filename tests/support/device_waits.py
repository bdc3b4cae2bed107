"""Finds the places where code waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING_OPS = {
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "masked_select",
    "_unique2",
    "bincount",
    "equal",
    "index",
}


class Waits(TorchDispatchMode):
    """Collects operators whose result the host has to see."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING_OPS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of all waits inside."""
    plain = Tensor.tolist
    with Waits() as mode, monkeypatch.context() as patch:
        patch.setattr(Tensor, "tolist", lambda self: (mode.found.append("tolist"), plain(self))[1])
        yield mode.found
