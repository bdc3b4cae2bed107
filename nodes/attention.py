"""A bias on the key logits of ComfyUI's attention, for proportional attention."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from torch import Tensor, nn

from ..core.errors import Decline

KERNELS_WITH_MASK = ("attention_pytorch",)
"""Kernels of ComfyUI that are as fast with a mask."""


def key_bias(attention: nn.Module, kwargs: dict[str, Any], bias: Tensor) -> dict[str, Any]:
    """Arguments of an attention with a bias, which is passed as the module's own `mask`.

    Args:
        attention: the module.
        kwargs: its keyword arguments.
        bias: [B, N], added to the logits of the keys.

    Raises :class:`Decline` if the module takes no mask (PixArt), already has one, or has no fast kernel with one.
    """
    parameters = inspect.signature(type(attention).forward).parameters
    if not {"mask", "transformer_options"} <= set(parameters):
        raise Decline(f"{type(attention).__name__} takes no key bias")
    if kwargs.get("mask") is not None:
        raise Decline("the attention already has a mask")
    if "optimized_attention_override" in (kwargs.get("transformer_options") or {}):
        raise Decline("another node chose the attention kernel")
    kernel = _kernel(attention)
    if kernel not in KERNELS_WITH_MASK:
        raise Decline(f"{kernel} has no fast path with a mask (ComfyUI's pytorch attention has)")
    return {**kwargs, "mask": bias[:, None, None, :]}


def _kernel(attention: nn.Module) -> str:
    """Name of the attention function that ComfyUI chose at its start."""
    module = sys.modules.get(type(attention).__module__)
    return getattr(getattr(module, "optimized_attention", None), "__name__", "this attention")
