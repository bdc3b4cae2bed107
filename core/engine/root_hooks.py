"""Brackets the forwards of a whole network, for hosts that reach it through its module only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .copies import copied_without, without_attribute, without_hooks
from .override import Override, is_compiled

Before = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Called with a forward's arguments before it runs. An override returns its result in place of the forward, unless it is None."""

After = Callable[[Any], Any]
"""Called with a forward's output after it ran; None if it failed. What it returns takes the output's place, unless it is None."""


class RootHooks:
    """Calls `before(args, kwargs)` and `after(output)` around each forward of a network until it is removed.

    Copies and pickles of the network do not contain the hooks.

    Args:
        root: the network.
        before: called before a forward; it must not raise.
        after: called after a forward.
        overrides: use an override of `forward` in place of hooks. It is needed to skip whole forwards, and where the network's
            own code calls `forward` without `__call__` (:class:`skipstone.core.models.Family`). A network that was itself compiled
            has one in any case: hooks would be compiled with it.

    Example:
        >>> module, seen = nn.Identity(), []
        >>> hooks = RootHooks(module, lambda args, kwargs: seen.append(args), seen.append)
        >>> module(1), hooks.remove(), module(2), seen
        (1, None, 2, [(1,), 1])
    """

    def __init__(self, root: nn.Module, before: Before, after: After, overrides: bool = False) -> None:
        """Install."""
        self.before, self._after = before, after
        self._override: Override | None = None
        self._undo = self._overridden(root) if overrides or is_compiled(root) else self._hooked(root)

    def remove(self) -> None:
        """Remove everything. It may be called twice."""
        for undo in reversed(self._undo):
            undo()
        self._undo, self._override = [], None

    def restore(self) -> None:
        """Install the override again if another tool took it away (:meth:`.override.Override.restore`)."""
        if self._override is not None:
            self._override.restore()

    def _overridden(self, root: nn.Module) -> list[Callable[[], None]]:
        before = dict(root.__dict__)
        override = Override(root, self._around, repeats=True, threads=True)
        override.install()
        self._override = override
        return [override.remove, copied_without(root, without_attribute(root, override.slot, before))]

    def _hooked(self, root: nn.Module) -> list[Callable[[], None]]:
        handles = [
            root.register_forward_pre_hook(self._pre_hook, with_kwargs=True),
            root.register_forward_hook(self._hook, with_kwargs=True, always_call=True),
        ]
        return [*(handle.remove for handle in handles), copied_without(root, without_hooks(*handles))]

    def _around(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer, output, corrected = self.before(args, kwargs), None, None
        try:
            if answer is None:
                output = answer = inner(*args, **kwargs)
        finally:
            corrected = self._after(output)
        return answer if corrected is None else corrected

    def _pre_hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.before(args, kwargs)

    def _hook(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        return self._after(output)
