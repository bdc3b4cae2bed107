"""Overriding a module's `forward` for one call, and putting back exactly what stood there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

Around = Callable[..., Any]
"""(inner forward, *args, **kwargs) -> output"""


class Override:
    """One module's forward, run through `around(inner, *args, **kwargs)` while installed.

    What stood in the instance's `forward` (accelerate's hooks, a host's object patch) is the inner forward. Entered a
    second time in one call (reference-only ControlNet, perturbed attention), the module runs plain, unless `repeats`.
    """

    def __init__(self, module: nn.Module, around: Around, repeats: bool = False) -> None:
        """Prepare; nothing is touched until :meth:`install`. The callable put in place stays the same object."""
        self._module = module
        self.around = around
        self._repeats = repeats
        self._spent = True
        self._covered = False
        self._forward = self._call if repeats else _uncompiled(self._call)

    def install(self) -> None:
        """Put the override in the instance's `forward`, or wake it where somebody else's wrapper stands over it."""
        self._spent = False
        own = self._module.__dict__
        if self._covered and "forward" in own:
            return
        self._had_own = "forward" in own
        self._inner = self._module.forward
        own["forward"] = self._forward

    def remove(self) -> None:
        """Put back what stood there, unless somebody replaced ours meanwhile; then ours just passes calls on."""
        self._spent = True
        own = self._module.__dict__
        self._covered = own.get("forward") is not self._forward
        if self._covered:
            return
        if self._had_own:
            own["forward"] = self._inner
        else:
            del own["forward"]

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if self._spent:
            return self._inner(*args, **kwargs)
        self._spent = not self._repeats
        return self.around(self._inner, *args, **kwargs)


def _uncompiled(function: Around) -> Around:
    """Keep torch.compile from tracing the engine, where it is in use at all; it would compile anew at every checkpoint."""
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
        """Remove all, last first. May be called any number of times."""
        if self._on:
            self._on = False
            for item in reversed(self._items):
                item.remove()


class Tap:
    """Reads what a module returns, for hosts whose bracket does not see it (ComfyUI's gives out the denoised latent)."""

    def __init__(self, module: nn.Module) -> None:
        """Prepare; nothing is touched."""
        self._overrides = Overrides([Override(module, self._around, repeats=True)])
        self._output: Any = None

    def open(self) -> None:
        """Listen from now on."""
        self._output = None
        self._overrides.install()

    def close(self) -> Any:
        """Stop, and give out what was returned last; None where nothing was. May be called twice."""
        self._overrides.remove()
        output, self._output = self._output, None
        return output

    def _around(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._output = inner(*args, **kwargs)
        return self._output


def beneath(module: nn.Module) -> Callable[..., Any]:
    """The forward that stands on a module below all overrides, those of other runs included."""
    forward = getattr(module.forward, "_torchdynamo_orig_callable", module.forward)
    while isinstance(override := getattr(forward, "__self__", forward), Override):
        forward = getattr(override._inner, "_torchdynamo_orig_callable", override._inner)
    return forward
