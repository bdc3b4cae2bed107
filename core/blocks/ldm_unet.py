"""The U-Net of latent diffusion (SD1.x, SD2.x, SDXL) in all its copies: ldm, sgm, ComfyUI, Forge, reForge."""

from __future__ import annotations

from torch import nn

from .family import Family, Site, block_sites, class_name

ROOTS = ("UNetModel", "IntegratedUNet2DConditionModel")


def _matches(root: nn.Module) -> bool:
    return class_name(root) in ROOTS and hasattr(root, "input_blocks") and hasattr(root, "output_blocks")


def _sites(root: nn.Module) -> list[Site]:
    return block_sites(root, ("BasicTransformerBlock",), "attn1", "attn2", "ff")


LDM_UNET = Family(
    name="ldm U-Net",
    matches=_matches,
    sites=_sites,
    names=(("x",), ("timesteps",), ("context", "y")),
)
