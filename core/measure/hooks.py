"""Hooks on modules that run in one thread only and are removed together, also after an interrupt."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any

from torch.utils.hooks import RemovableHandle


class Hooks:
    """A collection of hooks. It keeps each handle before the hook is active, so that no interrupt can leave a hook behind.

    Example:
        >>> from torch import nn
        >>> layer, hooks = nn.Linear(1, 1), Hooks()
        >>> hooks.add(layer._forward_hooks, lambda module, args, output: None)
        >>> hooks.remove()
        >>> len(hooks), len(layer._forward_hooks)
        (0, 0)
    """

    def __init__(self) -> None:
        """Start without hooks."""
        self._handles: list[RemovableHandle] = []

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, table: dict[int, Any], hook: Callable[..., Any]) -> None:
        """Add a hook to a module. It runs in this thread only.

        Args:
            table: the module's `_forward_hooks` or `_forward_pre_hooks`.
            hook: the function, with the arguments of such a hook.
        """
        handle = RemovableHandle(table)
        self._handles.append(handle)
        table[handle.id] = _own(hook)

    def remove(self) -> None:
        """Remove all hooks. May be called again at any time, also after an interrupt."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _own(hook: Callable[..., Any]) -> Callable[..., Any]:
    thread = get_ident()
    return lambda *args: hook(*args) if get_ident() == thread else None
