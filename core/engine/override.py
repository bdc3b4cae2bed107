"""Overrides a module's `forward` for one call of one thread, and restores exactly what was there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from threading import RLock, get_ident
from typing import Any

from torch import nn

_FORWARD, _COMPILED = "forward", "_compiled_call_impl"
"""Attributes of a module through which its calls go: the second one where it is set."""

Around = Callable[..., Any]
"""(inner forward, *args, **kwargs) -> output."""

_CHAIN = RLock()
"""Held while an instance's `forward` is exchanged, because several threads may run one network."""


class Override:
    """Runs a module's forward through `around(inner, *args, **kwargs)`, in the thread that installed it.

    The inner forward is whatever the instance's `forward` was before: accelerate's hooks, a host's object patch, another
    thread's override. If the module is entered twice in one call (reference-only ControlNet, perturbed attention), the
    second time runs plain.

    Where the module itself was compiled (`module.compile()`), its compiled call is overridden in place of its forward: it stays as
    it was compiled, and nothing of ours is traced.

    Args:
        module: the module to override.
        around: replaces its forward.
        repeats: run `around` each time the module is entered.
        threads: run `around` in all threads.

    Attributes:
        idle: :class:`Overrides` leave it out at this call.

    Example:
        >>> double = nn.Identity()
        >>> override = Override(double, lambda inner, x: 2 * inner(x))
        >>> override.install()
        >>> double(3), double(3)  # the second time plain
        (6, 3)
        >>> override.remove()
    """

    def __init__(self, module: nn.Module, around: Around, repeats: bool = False, threads: bool = False) -> None:
        """Prepare; nothing is changed before :meth:`install`. The callable put in place stays the same object."""
        self._module = module
        self.around: Around | None = around
        self._survives: Callable[[Exception], bool] | None = None
        self._repeats = repeats
        self._threads = threads
        self.idle = False
        self._spent = True
        self._covered = False
        self._thread = 0
        self._had_own: bool | None = None
        self.slot = _FORWARD
        self._inner: Callable[..., Any] = module.forward
        self._placed: Callable[..., Any] = self if repeats else _uncompiled(self)

    def guard(self, survives: Callable[[Exception], bool]) -> None:
        """Set what decides on errors of :attr:`around` itself.

        Args:
            survives: gets the error, and returns whether the module may run plain instead.
        """
        self._survives = survives

    def install(self) -> None:
        """Set the instance's `forward`, or reactivate the override below another tool's wrapper."""
        with _CHAIN:
            self._spent, self._thread = False, get_ident()
            own = self._module.__dict__
            if self._covered and self.slot in own:
                return
            self.slot = _COMPILED if is_compiled(self._module) else _FORWARD
            self._had_own = self.slot in own
            self._inner = getattr(self._module, self.slot)
            own[self.slot] = self._placed

    def remove(self) -> None:
        """Restore the previous `forward`.

        An override of another thread on top of this one takes over what was below it. Under another tool's wrapper, the
        override stays in place and passes calls on.
        """
        with _CHAIN:
            self._spent = True
            if self._had_own is None:
                return
            own, above = self._module.__dict__, self._above()
            self._covered = above is None and own.get(self.slot) is not self._placed
            if self._covered:
                return
            if above is not None:
                above._inner, above._had_own = self._inner, self._had_own
            elif self._had_own:
                own[self.slot] = self._inner
            else:
                del own[self.slot]

    def restore(self) -> None:
        """Install again if another tool restored a `forward` of before (accelerate's hooks, which diffusers renews each run).

        Under any other wrapper the override stays where it is: what a wrapper calls cannot be seen, and one above and below it
        would run round in circles.
        """
        with _CHAIN:
            own = self._module.__dict__
            if not self._below(own.get("_old_forward")) and self._is_bare(own.get(self.slot)):
                self._covered = False
                self.install()

    def _is_bare(self, placed: Any) -> bool:
        """Whether a callable is the module's own forward, perhaps in wrappers that name it as what they wrap."""
        bare = placed is None
        while placed is not None and not bare:
            bare, placed = getattr(placed, "__self__", None) is self._module, getattr(placed, "__wrapped__", None)
        return bare

    def _below(self, placed: Any) -> bool:
        """Whether this override is a callable, or in the chain of overrides beneath it."""
        while placed is not self._placed and (override := _override(placed)) is not None:
            placed = override._inner
        return placed is self._placed

    def discard(self) -> None:
        """Release what the override runs, once it will not be installed again, so that nothing waits for garbage collection."""
        self.around = self._survives = None
        self._placed = self

    def _above(self) -> Override | None:
        """Return the override directly on top of this one, if only overrides are on top of it."""
        above = _override(self._module.__dict__.get(self.slot))
        while above is not None and above._inner is not self._placed:
            above = _override(above._inner)
        return above

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run :attr:`around` in its thread and turn, otherwise the previous forward."""
        around = self.around
        foreign = not self._threads and self._thread != get_ident()
        if self._spent or around is None or foreign:
            return self._inner(*args, **kwargs)
        self._spent = not self._repeats
        return around(self._inner, *args, **kwargs) if self._survives is None else self._guarded(around, args, kwargs)

    def _guarded(self, around: Around, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run :attr:`around`; its own errors go to the guard, errors of the module itself are raised."""
        inside: list[bool] = []  # not empty while the module itself runs

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
    """Return the topmost override in a module's instance `forward`, or in its compiled call; None without one.

    Example:
        >>> override_in(nn.Identity()) is None
        True
    """
    return _override(module.__dict__.get(_COMPILED)) or _override(module.__dict__.get(_FORWARD))


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module itself was compiled (`module.compile()`), so that its call no longer goes to `forward`.

    Example:
        >>> is_compiled(nn.Identity())
        False
    """
    return module.__dict__.get(_COMPILED) is not None


def beneath(module: nn.Module) -> Callable[..., Any]:
    """Return a module's forward below all overrides, including those of other runs and threads.

    Example:
        >>> module = nn.Identity()
        >>> Override(module, lambda inner, x: -inner(x)).install()
        >>> module(1), beneath(module)(1)
        (-1, 1)
    """
    forward: Callable[..., Any] = module.forward
    while (override := _override(forward)) is not None:
        forward = override._inner
    return forward


def _override(placed: Any) -> Override | None:
    placed = getattr(placed, "_torchdynamo_orig_callable", placed)
    return placed if isinstance(placed, Override) else None


def _uncompiled(function: Override) -> Callable[..., Any]:
    """Exclude the override from torch.compile, if that is in use: it would recompile at every checkpoint."""
    dynamo = sys.modules.get("torch._dynamo")
    return function if dynamo is None else dynamo.disable(function)


class Overrides:
    """Overrides that are installed together for one call.

    Args:
        items: in order of installation.

    Example:
        >>> module = nn.Identity()
        >>> overrides = Overrides([Override(module, lambda inner, x: inner(x) + 1)])
        >>> overrides.install()
        >>> module(1)
        2
        >>> overrides.remove()
    """

    def __init__(self, items: Iterable[Override]) -> None:
        """Prepare; nothing is changed."""
        self._items = tuple(items)
        self._standing: tuple[Override, ...] = ()
        self._on = False

    def __len__(self) -> int:
        return len(self._items)

    def install(self) -> None:
        """Install all that are not idle, in order."""
        if not self._on:
            self._standing = tuple(item for item in self._items if not item.idle)
            self._on = True
            for item in self._standing:
                item.install()

    def remove(self) -> None:
        """Remove all, last first. It may be called repeatedly, and again after Ctrl-C interrupted it."""
        if self._on:
            for item in reversed(self._standing):
                item.remove()
            self._on = False

    def discard(self) -> None:
        """Remove all for good, and release what they hold."""
        self.remove()
        for item in self._items:
            item.discard()


class Tap:
    """Reads a module's output, for hosts whose bracket does not see it (ComfyUI's returns the denoised latent).

    Args:
        module: the module to read.

    Example:
        >>> module = nn.Identity()
        >>> tap = Tap(module)
        >>> tap.open()
        >>> output = module(7)
        >>> tap.close()
        7
    """

    def __init__(self, module: nn.Module) -> None:
        """Prepare; nothing is changed."""
        self._module = module
        self._overrides = Overrides([])
        self._output: Any = None

    def open(self) -> None:
        """Start reading."""
        self._output = None
        self._overrides = Overrides([Override(self._module, self._around, repeats=True)])
        self._overrides.install()

    def close(self) -> Any:
        """Stop reading, and return the last output; None without one. It may be called twice."""
        self._overrides.discard()
        output, self._output = self._output, None
        return output

    def _around(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._output = inner(*args, **kwargs)
        return self._output
