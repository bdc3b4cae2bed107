"""Keeps our hooks out of copies and pickles of a model."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

Cleaner = Callable[[dict[str, Any]], None]
"""Removes our entries from a copy of an object's `__dict__`."""

_REDUCE = "__reduce_ex__"


def copied_without(owner: Any, *cleaners: Cleaner) -> Callable[[], None]:
    """Make `copy.deepcopy`, `pickle` and `torch.save` copy an object without what the cleaners remove.

    All three look up `__reduce_ex__` on the object itself.

    Args:
        owner: any object with a `__dict__`.
        cleaners: each edits the state of a copy.

    Returns:
        A function that restores the object's own way of copying.

    Example:
        >>> import copy, torch
        >>> model = torch.nn.Linear(2, 2)
        >>> handle = model.register_forward_hook(lambda module, args, output: None)
        >>> undo = copied_without(model, without_hooks(handle))
        >>> len(copy.deepcopy(model)._forward_hooks), len(model._forward_hooks)
        (0, 1)
    """
    reference = weakref.ref(owner)  # the owner holds `reduce`: a strong reference would be a cycle

    def reduce(protocol: Any) -> Any:
        kind: Any = type(reference())
        made = kind.__reduce_ex__(reference(), protocol)  # the class's own way, not the attribute set below
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
    """Return a cleaner for hooks.

    Args:
        handles: `torch.utils.hooks.RemovableHandle`, whose ids are unique.

    Example:
        >>> import torch
        >>> module = torch.nn.Identity()
        >>> state = module.__dict__ | {}
        >>> handle = module.register_forward_hook(lambda module, args, output: None)
        >>> without_hooks(handle)(state), len(state["_forward_hooks"]), len(module._forward_hooks)
        (None, 0, 1)
    """
    ours = {handle.id for handle in handles}

    def clean(state: dict[str, Any]) -> None:
        for name in [n for n, value in state.items() if n.endswith(_HOOK_TABLES) and isinstance(value, dict)]:
            state[name] = type(state[name])((k, v) for k, v in state[name].items() if k not in ours)

    return clean


_HOOK_TABLES = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")


def without_attribute(owner: Any, name: str, before: dict[str, Any]) -> Cleaner:
    """Return a cleaner for an instance attribute.

    Args:
        owner: the object.
        name: the attribute; its present value is left out of copies.
        before: the object's `__dict__` before the attribute was set. Copies get the attribute's value in it, if any.

    Example:
        >>> from types import SimpleNamespace
        >>> owner = SimpleNamespace(forward="ours")
        >>> state = dict(vars(owner))
        >>> without_attribute(owner, "forward", {"forward": "theirs"})(state), state
        (None, {'forward': 'theirs'})
    """
    ours, had, own = owner.__dict__[name], name in before, before.get(name)

    def clean(state: dict[str, Any]) -> None:
        if state.get(name) is ours:
            del state[name]
            if had:
                state[name] = own

    return clean
