"""Transformers without rotary positions: DiT and PixArt, in diffusers, in the papers' code and in ComfyUI."""

from __future__ import annotations

from torch import nn

from .diffusers_unet import diffusers_sites, mask_bias
from .family import Family, Site, block_sites, class_name

_BLOCKS = ("DiTBlock", "PixArtBlock", "PixArtMSBlock")

DIFFUSERS_DIT = Family(
    name="diffusers DiT",
    matches=lambda root: class_name(root) in ("DiTTransformer2DModel", "PixArtTransformer2DModel"),
    sites=diffusers_sites,
    names=(("hidden_states",), ("timestep",), ("encoder_hidden_states", "class_labels")),
    key_bias=mask_bias,
)


def _has_dit_blocks(root: nn.Module) -> bool:
    blocks = getattr(root, "blocks", None)
    return isinstance(blocks, nn.ModuleList) and len(blocks) > 0 and class_name(blocks[0]) in _BLOCKS


def _sites(root: nn.Module) -> list[Site]:
    return block_sites(root, _BLOCKS, "attn", "cross_attn", "mlp")


DIT = Family(
    name="DiT",
    matches=_has_dit_blocks,
    sites=_sites,
    names=(("x",), ("t", "timestep", "timesteps"), ("y", "context")),
    calls_forward=True,
    notes="facebook DiT's forward_with_cfg calls forward directly",
)
