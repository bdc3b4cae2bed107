"""The U-Net of latent diffusion (SD1.x, SD2.x, SDXL, SVD) in all its copies: ldm, sgm, ComfyUI, Forge and reForge."""

from __future__ import annotations

from torch import nn

from ..recipe.block_skip import Caching
from .family import BLOCKS, DATO_SCHEDULE, TOKENS_AND_BLOCKS, Family, Site, block_sites, class_name
from .graph import MIDDLE, Block, BlockGraph, GraphBuilder

ROOTS = ("UNetModel", "IntegratedUNet2DConditionModel")


def _matches(root: nn.Module) -> bool:
    return class_name(root) in ROOTS and hasattr(root, "input_blocks") and hasattr(root, "output_blocks")


def _sites(root: nn.Module) -> list[Site]:
    return block_sites(root, ("BasicTransformerBlock",), "attn1", "attn2", "ff")


_KINDS = {
    "ResBlock": "resnet",
    "VideoResBlock": "resnet",
    "SpatialTransformer": "transformer",
    "SpatialVideoTransformer": "transformer",
    "AttentionBlock": "attention",
    "Downsample": "sample",
    "Upsample": "sample",
}


def ldm_graph(root: nn.Module, caching: Caching = "output", split: bool = False) -> BlockGraph:
    """ResBlocks and SpatialTransformers in forward order, with the skips from input blocks to output blocks.

    Args:
        root: the U-Net.
        caching: what a block's value is.
        split: list the inner blocks of transformers in place of the whole.

    Example:
        >>> unet = nn.Module()
        >>> unet.input_blocks = unet.middle_block = unet.output_blocks = nn.ModuleList()
        >>> len(ldm_graph(unet))
        0
    """
    builder = GraphBuilder(caching, split)
    skips: list[frozenset[int]] = []
    for depth, layers in enumerate(root.input_blocks):  # type: ignore[arg-type, union-attr]
        _walk(builder, f"input_blocks.{depth}", layers, depth)
        skips.append(builder.state)
    _walk(builder, "middle_block", root.middle_block, MIDDLE)  # type: ignore[arg-type]
    for number, layers in enumerate(root.output_blocks):  # type: ignore[arg-type, union-attr]
        builder.join(skips.pop())
        _walk(builder, f"output_blocks.{number}", layers, len(skips))
    return builder.build()


def _walk(builder: GraphBuilder, path: str, layers: nn.Module, depth: int) -> None:
    for number, layer in enumerate(layers.children()):
        kind = _KINDS.get(class_name(layer))
        if kind is not None:
            builder.add(Block(f"{path}.{number}", kind, layer, depth, derived=kind == "sample"))


LDM_UNET = Family(
    name="ldm U-Net",
    matches=_matches,
    sites=_sites,
    graph=ldm_graph,
    serves={
        **dict.fromkeys(("SD1.x", "SD2.x", "SDXL"), (*TOKENS_AND_BLOCKS, DATO_SCHEDULE)),
        "SVD": BLOCKS,
    },
    splits=True,
    names=(("x",), ("timesteps",), ("context", "y")),
)
