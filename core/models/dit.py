"""Transformers without rotary positions: DiT and PixArt, in diffusers, in the papers' code and in ComfyUI."""

from __future__ import annotations

from inspect import Parameter, signature

from torch import nn

from ..recipe.block_skip import Caching
from .diffusers_unet import diffusers_sites, mask_bias
from .family import TOKENS_AND_BLOCKS, Family, Site, block_sites, class_name, unwrapped
from .graph import BlockGraph
from .stack import graph_of_lists

_BLOCKS = ("DiTBlock", "PixArtBlock", "PixArtMSBlock")


def dit_graph(root: nn.Module, caching: Caching = "branch") -> BlockGraph:
    """The attentions and feed-forwards of a transformer (branch caching), or its whole blocks.

    Args:
        root: the transformer.
        caching: what a block's value is.

    Example:
        >>> transformer = nn.Module()
        >>> transformer.blocks = nn.ModuleList([nn.ModuleDict({"attn": nn.Identity()}), nn.Identity()])
        >>> [block.name for block in dit_graph(transformer, "output").blocks]
        ['blocks.0', 'blocks.1']
    """
    return graph_of_lists("transformer_blocks" if hasattr(root, "transformer_blocks") else "blocks")(root, caching)


_CACHINGS: tuple[Caching, ...] = ("branch", "output", "difference")

DIFFUSERS_DIT = Family(
    name="diffusers DiT",
    matches=lambda root: class_name(root) in ("DiTTransformer2DModel", "PixArtTransformer2DModel"),
    sites=diffusers_sites,
    graph=dit_graph,
    serves=dict.fromkeys(("DiT", "PixArt"), TOKENS_AND_BLOCKS),
    cachings=_CACHINGS,
    names=(("hidden_states",), ("timestep",), ("encoder_hidden_states", "class_labels")),
    key_bias=mask_bias,
)


def _has_dit_blocks(root: nn.Module) -> bool:
    blocks = getattr(root, "blocks", None)
    return isinstance(blocks, nn.ModuleList) and len(blocks) > 0 and all(map(_is_dit_block, blocks))


def _is_dit_block(block: nn.Module) -> bool:
    """Whether a block has arguments for tokens and one condition (PixArt: the text too), and none for rotary positions."""
    parts = all(isinstance(getattr(block, name, None), nn.Module) for name in ("norm1", "attn", "mlp"))
    parameters = list(signature(type(unwrapped(block)).forward).parameters.values())[1:]
    needed = [p for p in parameters if p.default is Parameter.empty and p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    rotary = any(word in p.name for p in parameters for word in ("rope", "rotary", "freqs"))
    return class_name(block) in _BLOCKS and parts and len(needed) in (2, 3) and not rotary


def _sites(root: nn.Module) -> list[Site]:
    return block_sites(root, _BLOCKS, "attn", "cross_attn", "mlp")


DIT = Family(
    name="DiT",
    matches=_has_dit_blocks,
    sites=_sites,
    graph=dit_graph,
    serves={"PixArt": TOKENS_AND_BLOCKS},
    cachings=_CACHINGS,
    names=(("x",), ("t", "timestep", "timesteps"), ("y", "context")),
    calls_forward=True,
    notes="facebook DiT's forward_with_cfg calls forward directly",
)
