"""Copies and pickles of a model that carries our hooks are made without them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

Cleaner = Callable[[dict[str, Any]], None]
"""Takes what is ours out of a copy of an object's `__dict__`."""

_REDUCE = "__reduce_ex__"


def copied_without(owner: Any, *cleaners: Cleaner) -> Callable[[], None]:
    """From now on `copy.deepcopy`, `pickle` and `torch.save` copy an object as the cleaners leave it.

    They all look for `__reduce_ex__` on the object itself. Returns what puts the object's own way of copying back.

    Example::

        handle = model.register_forward_hook(hook)
        undo = copied_without(model, without_hooks(handle))
        copy.deepcopy(model)  # has no hook
    """
    reference = weakref.ref(owner)

    def reduce(protocol: Any) -> Any:
        kind: Any = type(reference())
        made = kind.__reduce_ex__(reference(), protocol)
        if not isinstance(made, tuple) or len(made) < 3 or not isinstance(made[2], dict):
            return made
        state = {name: value for name, value in made[2].items() if value is not reduce}
        for clean in cleaners:
            clean(state)
        return (*made[:2], state, *made[3:])

    def undo() -> None:
        if (owner := reference()) is not None:
            owner.__dict__.pop(_REDUCE, None)

    owner.__dict__[_REDUCE] = reduce
    return undo


def without_hooks(*handles: Any) -> Cleaner:
    """Leave out the hooks of these handles (`torch.utils.hooks.RemovableHandle`), whose ids no other hook has."""
    ours = {handle.id for handle in handles}

    def clean(state: dict[str, Any]) -> None:
        for name in [n for n, value in state.items() if n.endswith(_HOOK_TABLES) and isinstance(value, dict)]:
            state[name] = type(state[name])((k, v) for k, v in state[name].items() if k not in ours)

    return clean


_HOOK_TABLES = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")


def without_attribute(owner: Any, name: str, before: dict[str, Any]) -> Cleaner:
    """Leave out what stands in the instance's attribute `name` now; what stood in the `__dict__` `before` takes its place."""
    ours, had, own = owner.__dict__[name], name in before, before.get(name)

    def clean(state: dict[str, Any]) -> None:
        if state.get(name) is ours:
            del state[name]
            if had:
                state[name] = own

    return clean
