"""Blocks that other code reads: through a forward hook inside them, or an attention that stores what it computed.

Such a block runs at every call. Hooks that only move, cast or quantise weights are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

_PLUMBING = (
    "torch",
    "accelerate",
    "diffusers.hooks",
    "peft",
    "optimum",
    "bitsandbytes",
    "modules.lowvram",  # AUTOMATIC1111
    __name__.partition(".core.")[0],
)
"""Packages whose hooks handle weights and do not read what is computed."""
_LIBRARY = "diffusers.models."
"""Package whose attention processors store nothing between calls."""
_DEPTH = 3


def foreign_hook(module: nn.Module) -> str:
    """The name of a forward hook on a module, or inside it, that may read what the block computes; empty if there is none.

    Example:
        >>> block = nn.Sequential(nn.Linear(1, 1))
        >>> handle = block[0].register_forward_hook(print)
        >>> foreign_hook(block)
        'forward hook print'
    """
    for inner in module.modules():
        for hook in (*inner._forward_pre_hooks.values(), *inner._forward_hooks.values()):
            if not _comes_from(hook, _PLUMBING):
                return f"forward hook {_named(hook)}"
    return ""


class Watch:
    """Compares what attention processors and host patches store before and after a block runs.

    SAG's processor stores attention maps and prompt-to-prompt's controller counts layers; the pipeline reads them after the
    call.

    Args:
        module: the block, before it runs.
        args: positional arguments that it runs on.
        kwargs: keyword arguments that it runs on.

    Example:
        >>> watch = Watch(nn.Linear(1, 1), (), {})
        >>> watch.stores()
        ''
    """

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note what is stored before the block runs."""
        keepers = [*own_processors(module), *_patches((*args, *kwargs.values()))]
        self._before = [(keeper, list(_kept(keeper, _DEPTH))) for keeper in keepers]

    def stores(self) -> str:
        """After the block ran: the processor or patch whose stored values changed; empty if none."""
        for keeper, before in self._before:
            after = list(_kept(keeper, _DEPTH))
            if len(after) != len(before) or not all(map(_same, before, after)):
                return f"attention processor or patch {_named(keeper)}"
        return ""


def own_processors(module: nn.Module) -> Iterator[Any]:
    """Attention processors inside a module that are not of the diffusers library.

    Example:
        >>> attention = nn.Identity()
        >>> attention.processor = print
        >>> list(own_processors(attention)) == [print]
        True
    """
    for inner in module.modules():
        processor = getattr(inner, "processor", None)
        if callable(processor) and not type(processor).__module__.startswith(_LIBRARY):
            yield processor


def kept_map(processor: Any) -> str:
    """Why an attention must run on all tokens: its processor may store a map for later. Empty if it does not.

    A processor may store a map if one of its attributes is None, empty, or a tensor.

    Example:
        >>> class Store:
        ...     map = None
        ...     def __init__(self): self.map = None
        ...     def __call__(self): ...
        >>> kept_map(Store())
        'attention processor Store may keep attention maps for others'
    """
    if not callable(processor) or type(processor).__module__.startswith(_LIBRARY):
        return ""
    room = (v is None or isinstance(v, Tensor) or (isinstance(v, (list, dict)) and not v) for v in _members(processor))
    return f"attention processor {_named(processor)} may keep attention maps for others" if any(room) else ""


def _patches(values: tuple[Any, ...]) -> Iterator[Any]:
    """Attention patches that ComfyUI or Forge runs in the block of these arguments."""
    options = next((v for v in values if isinstance(v, dict) and ("patches" in v or "patches_replace" in v)), {})
    here = tuple(options.get("block", ()))[:2]
    for name, patches in options.get("patches", {}).items():
        yield from patches if name.startswith("attn") else ()
    for replacements in options.get("patches_replace", {}).values():
        yield from (patch for at, patch in replacements.items() if tuple(at)[:2] == here)


def _kept(holder: Any, depth: int) -> Iterator[Any]:
    """What an object or function stores: its values, and the lengths and values of its containers."""
    for value in _members(holder):
        if isinstance(value, (list, tuple, dict)):
            yield len(value)
            yield from value.values() if isinstance(value, dict) else value
        else:
            yield value
            if depth > 1 and hasattr(value, "__dict__") and not isinstance(value, (nn.Module, Tensor, type)):
                yield from _kept(value, depth - 1)


def _members(holder: Any) -> list[Any]:
    """Attributes of an object or of a bound method's owner, and the variables in a function's closure."""
    owner = getattr(holder, "__self__", holder)
    cells = [c.cell_contents for c in getattr(owner, "__closure__", None) or () if _filled(c)]
    usual = vars(nn.Module()) if isinstance(owner, nn.Module) else {}
    return cells + [v for name, v in getattr(owner, "__dict__", {}).items() if name not in usual]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _same(before: Any, after: Any) -> bool:
    return before is after or (isinstance(before, (int, float, str)) and before == after)


def _comes_from(hook: Callable[..., Any], packages: tuple[str, ...]) -> bool:
    module = str(getattr(_function(hook), "__module__", ""))
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _function(hook: Any) -> Any:
    return hook.func if isinstance(hook, partial) else hook


def _named(what: Any) -> str:
    function = _function(what)
    return getattr(function, "__name__", type(function).__name__)
