"""Attentions that compute each row of a batch by itself, so that the rows can run in groups.

PAG's processors split the batch in two or three, StyleAligned's let rows attend to a reference row, SAG's store attention
maps. So only listed attentions run in groups; all others run on the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

_HOSTS = ("ldm", "sgm", "comfy", "backend", "timm", "diffusers", "modules.sd_hijack", "modules.sd_hijack_optimizations")
"""Packages whose attention forwards, and replacements of them, compute rows by themselves."""
_ATTENTIONS = ("CrossAttention", "MemoryEfficientCrossAttention", "Attention", "AttentionKVCompress")
_PROCESSORS = (
    "AttnProcessor",
    "AttnProcessor2_0",
    "AttnProcessorNPU",
    "FusedAttnProcessor2_0",
    "SlicedAttnProcessor",
    "XFormersAttnProcessor",
    "XLAFlashAttnProcessor2_0",
)
_WRAPPERS = ("accelerate.hooks", "diffusers.hooks.hooks")
"""Modules whose wrappers of a forward move weights between devices."""


def crossing(attention: nn.Module, forward: Callable[..., Any]) -> str:
    """What may mix the rows of a batch in an attention; empty if each row is computed by itself.

    Args:
        attention: the attention.
        forward: its present forward, which may be a replacement.

    Example:
        >>> layer = nn.Identity()
        >>> crossing(layer, layer.forward), crossing(layer, print)
        ('attention Identity', 'a replaced forward of Identity')
    """
    kind = type(attention)
    if getattr(_unwrapped(forward), "__func__", None) is not kind.forward:
        return f"a replaced forward of {kind.__name__}"
    if kind.__name__ not in _ATTENTIONS or not _within(kind.forward, _HOSTS):
        return f"attention {kind.__name__}"
    processor = type(getattr(attention, "processor", None))
    if _within(kind, ("diffusers",)) and not (processor.__name__ in _PROCESSORS and _within(processor, ("diffusers",))):
        return f"attention processor {processor.__name__}"
    return ""


def crossing_kernel(kwargs: Mapping[str, Any]) -> str:
    """What may mix the rows of a batch in ComfyUI's attention kernel: another node's override. Empty if there is none.

    Example:
        >>> crossing_kernel({"transformer_options": {"optimized_attention_override": print}})
        'attention override print'
    """
    options = kwargs.get("transformer_options")
    override = options.get("optimized_attention_override") if isinstance(options, Mapping) else None
    return "" if override is None else f"attention override {getattr(override, '__name__', type(override).__name__)}"


def _unwrapped(forward: Any) -> Any:
    """The forward inside the wrappers that move weights between devices."""
    while isinstance(forward, partial) and _within(forward.func, _WRAPPERS) and hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    return forward


def _within(what: Any, packages: tuple[str, ...]) -> bool:
    module = str(getattr(what, "__module__", ""))
    return any(module == package or module.startswith(f"{package}.") for package in packages)
