"""Overriding a module's `forward` for one call of one thread, and putting back exactly what stood there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from threading import RLock, get_ident
from typing import Any

from torch import nn

Around = Callable[..., Any]
"""(inner forward, *args, **kwargs) -> output"""

_CHAIN = RLock()
"""Held while an instance's `forward` is exchanged: threads may run one network side by side."""


class Override:
    """One module's forward, run through `around(inner, *args, **kwargs)` while installed, in the thread that installed it.

    What stood in the instance's `forward` (accelerate's hooks, a host's object patch, another thread's override) is the inner
    forward. Entered a second time in one call (reference-only ControlNet, perturbed attention), the module runs plain, unless
    `repeats`.
    """

    def __init__(self, module: nn.Module, around: Around, repeats: bool = False, threads: bool = False) -> None:
        """Prepare; nothing is touched until :meth:`install`. The callable put in place stays the same object.

        threads: it serves all threads, whichever installed it.
        """
        self._module = module
        self.around: Around | None = around
        self._survives: Callable[[Exception], bool] | None = None
        self._repeats = repeats
        self._threads = threads
        self._spent = True
        self._covered = False
        self._thread = 0
        self._had_own: bool | None = None
        self._inner: Callable[..., Any] = module.forward
        self._placed: Callable[..., Any] = self if repeats else _uncompiled(self)

    def guard(self, survives: Callable[[Exception], bool]) -> None:
        """Where :attr:`around` fails by itself, `survives(error)` says whether the module may run plain in its place."""
        self._survives = survives

    def install(self) -> None:
        """Put the override in the instance's `forward`, or wake it where somebody else's wrapper stands over it."""
        with _CHAIN:
            self._spent, self._thread = False, get_ident()
            own = self._module.__dict__
            if self._covered and "forward" in own:
                return
            self._had_own = "forward" in own
            self._inner = self._module.forward
            own["forward"] = self._placed

    def remove(self) -> None:
        """Put back what stood there. Under an override of another thread, that one takes over what stood below this one;
        under somebody else's wrapper, ours stays and just passes calls on."""
        with _CHAIN:
            self._spent = True
            if self._had_own is None:
                return
            own, above = self._module.__dict__, self._above()
            self._covered = above is None and own.get("forward") is not self._placed
            if self._covered:
                return
            if above is not None:
                above._inner, above._had_own = self._inner, self._had_own
            elif self._had_own:
                own["forward"] = self._inner
            else:
                del own["forward"]

    def discard(self) -> None:
        """The override will not be installed again: let go of what it ran, so that nothing waits for garbage collection."""
        self.around = self._survives = None
        self._placed = self

    def _above(self) -> Override | None:
        """The override that stands directly on this one, where only overrides stand over it."""
        above = override_in(self._module)
        while above is not None and above._inner is not self._placed:
            above = _override(above._inner)
        return above

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward in place: :attr:`around` in its own thread and turn, else what stood there before."""
        around = self.around
        foreign = not self._threads and self._thread != get_ident()
        if self._spent or around is None or foreign:
            return self._inner(*args, **kwargs)
        self._spent = not self._repeats
        return around(self._inner, *args, **kwargs) if self._survives is None else self._guarded(around, args, kwargs)

    def _guarded(self, around: Around, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Errors of the module itself pass through."""
        inside: list[bool] = []

        def inner(*args: Any, **kwargs: Any) -> Any:
            inside.append(True)
            output = self._inner(*args, **kwargs)
            inside.pop()
            return output

        try:
            return around(inner, *args, **kwargs)
        except Exception as fault:
            survives = self._survives
            if inside or survives is None or not survives(fault):
                raise
        return self._inner(*args, **kwargs)


def override_in(module: nn.Module) -> Override | None:
    """The override that stands topmost in a module's instance `forward`; None where none does."""
    return _override(module.__dict__.get("forward"))


def beneath(module: nn.Module) -> Callable[..., Any]:
    """A module's forward below all overrides, those of other runs and threads included."""
    forward: Callable[..., Any] = module.forward
    while (override := _override(forward)) is not None:
        forward = override._inner
    return forward


def _override(placed: Any) -> Override | None:
    placed = getattr(placed, "_torchdynamo_orig_callable", placed)
    return placed if isinstance(placed, Override) else None


def _uncompiled(function: Override) -> Callable[..., Any]:
    """Keep torch.compile from tracing the engine, where it is in use at all; it would recompile at every checkpoint."""
    dynamo = sys.modules.get("torch._dynamo")
    return function if dynamo is None else dynamo.disable(function)


class Overrides:
    """Overrides that are installed together for one call."""

    def __init__(self, items: Iterable[Override]) -> None:
        """Prepare; nothing is touched."""
        self._items = tuple(items)
        self._on = False

    def __len__(self) -> int:
        return len(self._items)

    def install(self) -> None:
        """Install all, in order."""
        if not self._on:
            self._on = True
            for item in self._items:
                item.install()

    def remove(self) -> None:
        """Remove all, last first. May be called any number of times, also once more after Ctrl-C fell into it."""
        if self._on:
            for item in reversed(self._items):
                item.remove()
            self._on = False

    def discard(self) -> None:
        """Remove all for good, and free what they hold."""
        self.remove()
        for item in self._items:
            item.discard()


class Tap:
    """Reads what a module returns, for hosts whose bracket does not see it (ComfyUI's returns the denoised latent)."""

    def __init__(self, module: nn.Module) -> None:
        """Prepare; nothing is touched."""
        self._module = module
        self._overrides = Overrides([])
        self._output: Any = None

    def open(self) -> None:
        """Listen from now on."""
        self._output = None
        self._overrides = Overrides([Override(self._module, self._around, repeats=True)])
        self._overrides.install()

    def close(self) -> Any:
        """Stop, and return what was returned last; None where nothing was. May be called twice."""
        self._overrides.discard()
        output, self._output = self._output, None
        return output

    def _around(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._output = inner(*args, **kwargs)
        return self._output
