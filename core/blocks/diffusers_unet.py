"""diffusers' `UNet2DConditionModel` (SD, SDXL, class-conditional LDM)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import Decline
from .family import Family, Site, block_sites, class_name

_BIAS_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")


def mask_bias(attention: nn.Module, kwargs: dict[str, Any], bias: Tensor) -> dict[str, Any]:
    """diffusers' processors take an additive mask [B, 1, N] for the keys; it goes straight into their kernel."""
    processor = type(getattr(attention, "processor", None)).__name__
    if processor not in _BIAS_PROCESSORS:
        raise Decline(f"attention processor {processor} takes no key bias")
    if kwargs.get("attention_mask") is not None:
        raise Decline("the attention already has a mask")
    return {**kwargs, "attention_mask": bias[:, None]}


def diffusers_sites(root: nn.Module) -> list[Site]:
    """Sites of diffusers' `BasicTransformerBlock`, which its U-Nets and DiTs share."""
    return block_sites(root, ("BasicTransformerBlock",), "attn1", "attn2", "ff")


DIFFUSERS_UNET = Family(
    name="diffusers U-Net",
    matches=lambda root: class_name(root) == "UNet2DConditionModel",
    sites=diffusers_sites,
    names=(("sample",), ("timestep",), ("encoder_hidden_states", "class_labels")),
    key_bias=mask_bias,
)
