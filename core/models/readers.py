"""Which blocks are read from outside: by a forward hook on a module inside, or by an attention that keeps what it computed.

Such a block runs at every call. What moves, casts or quantises weights by hooks reads nothing.
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
    __name__.partition(".core.")[0],
)
"""Packages whose hooks see to weights, not to what is computed."""
_LIBRARY = "diffusers.models."
"""Where the attention processors live that keep nothing between calls."""
_DEPTH = 3


def foreign_hook(module: nn.Module) -> str:
    """The name of a forward hook on a module or below it that may read what the block computes; empty without one."""
    for inner in module.modules():
        for hook in (*inner._forward_pre_hooks.values(), *inner._forward_hooks.values()):
            if not _comes_from(hook, _PLUMBING):
                return f"forward hook {_named(hook)}"
    return ""


class Watch:
    """Sees whether running a block changes what its attention processors, or a host's attention patches, keep.

    SAG's processor keeps attention maps, prompt-to-prompt's controller counts layers; the pipeline reads both after the call.
    """

    def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before the block runs on these arguments."""
        keepers = [*own_processors(module), *_patches((*args, *kwargs.values()))]
        self._before = [(keeper, list(_kept(keeper, _DEPTH))) for keeper in keepers]

    def stores(self) -> str:
        """After it ran: whose kept values changed; empty where none did."""
        for keeper, before in self._before:
            after = list(_kept(keeper, _DEPTH))
            if len(after) != len(before) or not all(map(_same, before, after)):
                return f"attention processor or patch {_named(keeper)}"
        return ""


def own_processors(module: nn.Module) -> Iterator[Any]:
    """Attention processors below a module that are not the library's own."""
    for inner in module.modules():
        processor = getattr(inner, "processor", None)
        if callable(processor) and not type(processor).__module__.startswith(_LIBRARY):
            yield processor


def kept_map(processor: Any) -> str:
    """Why an attention must see all tokens: its processor has room for a map that is read later (an attribute that is None,
    empty, or a tensor); empty where it has none."""
    if not callable(processor) or type(processor).__module__.startswith(_LIBRARY):
        return ""
    room = (v is None or isinstance(v, Tensor) or (isinstance(v, (list, dict)) and not v) for v in _members(processor))
    return f"attention processor {_named(processor)} may keep attention maps for others" if any(room) else ""


def _patches(values: tuple[Any, ...]) -> Iterator[Any]:
    """Attention patches that ComfyUI or Forge would run in the block at hand."""
    options = next((v for v in values if isinstance(v, dict) and ("patches" in v or "patches_replace" in v)), {})
    here = tuple(options.get("block", ()))[:2]
    for name, patches in options.get("patches", {}).items():
        yield from patches if name.startswith("attn") else ()
    for replacements in options.get("patches_replace", {}).values():
        yield from (patch for at, patch in replacements.items() if tuple(at)[:2] == here)


def _kept(holder: Any, depth: int) -> Iterator[Any]:
    """Leaves of what an object or function holds: values, and containers' lengths."""
    for value in _members(holder):
        if isinstance(value, (list, tuple, dict)):
            yield len(value)
            yield from value.values() if isinstance(value, dict) else value
        else:
            yield value
            if depth > 1 and hasattr(value, "__dict__") and not isinstance(value, (nn.Module, Tensor, type)):
                yield from _kept(value, depth - 1)


def _members(holder: Any) -> list[Any]:
    """Attributes of an object, a bound method's owner, or what a function closes over."""
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
