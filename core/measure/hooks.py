"""Hooks of ours on modules: for the thread that put them there, taken off together, also after Ctrl-C fell between two."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from torch.utils.hooks import RemovableHandle


class Hooks:
    """A collection of hooks. Each handle is noted before its hook stands, so that no hook can stand that is not noted."""

    def __init__(self) -> None:
        """None yet."""
        self._handles: list[RemovableHandle] = []

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, table: dict[int, Any], hook: Callable[..., Any]) -> None:
        """Put a hook into a module's table: its `_forward_hooks` or `_forward_pre_hooks`. Other threads that run the module
        do not call it."""
        handle = RemovableHandle(table)
        self._handles.append(handle)
        table[handle.id] = _own(hook)

    def remove(self) -> None:
        """Take all off. May be called at any time, also once more after an interrupt."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _own(hook: Callable[..., Any]) -> Callable[..., Any]:
    thread = get_ident()
    return lambda *args: hook(*args) if get_ident() == thread else None
