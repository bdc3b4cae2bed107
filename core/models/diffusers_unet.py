"""diffusers' `UNet2DConditionModel` (SD, SDXL, class-conditional LDM) and `UNet2DModel` (DDPM)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..errors import Decline, ModelError
from ..recipe.block_skip import Caching
from .family import BLOCKS, DATO_SCHEDULE, TOKENS_AND_BLOCKS, Family, Site, block_sites, class_name
from .graph import MIDDLE, Block, BlockGraph, GraphBuilder

_BIAS_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")

_ODD = ("Skip", "AttnSkip", "KDown", "KUp", "KCross")
"""Stages whose skips hold more than the hidden state, or hold it in another way."""


def mask_bias(attention: nn.Module, kwargs: dict[str, Any], bias: Tensor) -> dict[str, Any]:
    """Add a bias on the keys to an attention's arguments: diffusers' processors have a mask that their kernel adds to logits.

    Args:
        attention: the attention.
        kwargs: its keyword arguments.
        bias: added to the logits of each key [B, N].

    Raises :class:`Decline` for other processors, and if the attention has a mask already.

    Example:
        >>> mask_bias(nn.Identity(), {}, bias=None)
        Traceback (most recent call last):
        skipstone.core.errors.Decline: attention processor NoneType takes no key bias
    """
    processor = type(getattr(attention, "processor", None)).__name__
    if processor not in _BIAS_PROCESSORS:
        raise Decline(f"attention processor {processor} takes no key bias")
    if kwargs.get("attention_mask") is not None:
        raise Decline("the attention already has a mask")
    return {**kwargs, "attention_mask": bias[:, None]}


def diffusers_sites(root: nn.Module) -> list[Site]:
    """Sites of diffusers' `BasicTransformerBlock`, which its U-Nets and DiTs share.

    Example:
        >>> diffusers_sites(nn.Linear(1, 1))
        []
    """
    return block_sites(root, ("BasicTransformerBlock",), "attn1", "attn2", "ff")


def unet_graph(root: nn.Module, caching: Caching = "output", split: bool = False) -> BlockGraph:
    """Resnets and attentions of a U-Net in forward order, with the skips from the down blocks to the up blocks.

    Args:
        root: diffusers' `UNet2DConditionModel` or `UNet2DModel`.
        caching: what a block's value is.
        split: list the inner blocks of transformers in place of the whole.

    Raises :class:`ModelError` for stages whose skips differ.

    Example:
        >>> unet = nn.Module()
        >>> unet.down_blocks, unet.mid_block, unet.up_blocks = nn.ModuleList(), None, nn.ModuleList()
        >>> len(unet_graph(unet))
        0
    """
    if odd := next((s for s in (*root.down_blocks, *root.up_blocks) if class_name(s).startswith(_ODD)), None):  # type: ignore[misc]
        raise ModelError(f"a {class_name(root)} with {class_name(odd)} has other skips: use it without block skipping")
    builder = GraphBuilder(caching, split)
    # As in the network: each resnet and downsampler pushes a skip, beside that of conv_in, and each up resnet pops one.
    skips: list[frozenset[int]] = [builder.state]
    for number, stage in enumerate(root.down_blocks):  # type: ignore[arg-type, union-attr]
        path = f"down_blocks.{number}"
        for layer in range(len(stage.resnets)):
            _layer(builder, path, stage, layer, depth=len(skips))
            skips.append(builder.state)
        for sampler in range(len(getattr(stage, "downsamplers", None) or ())):
            _sample(builder, f"{path}.downsamplers.{sampler}", stage.downsamplers[sampler], depth=len(skips))
            skips.append(builder.state)
    _middle(builder, root.mid_block)  # type: ignore[arg-type]
    for number, stage in enumerate(root.up_blocks):  # type: ignore[arg-type, union-attr]
        path, first = f"up_blocks.{number}", len(builder)
        for layer in range(len(stage.resnets)):
            builder.join(skips.pop())
            _layer(builder, path, stage, layer, depth=len(skips))
        for sampler in range(len(getattr(stage, "upsamplers", None) or ())):
            _sample(builder, f"{path}.upsamplers.{sampler}", stage.upsamplers[sampler], depth=len(skips))
        builder.stage(stage, first)
    return builder.build()


def _layer(builder: GraphBuilder, path: str, stage: Any, layer: int, depth: int) -> None:
    builder.add(Block(f"{path}.resnets.{layer}", "resnet", stage.resnets[layer], depth))
    attentions = getattr(stage, "attentions", None)
    if attentions is not None and len(attentions) > layer and attentions[layer] is not None:
        builder.add(Block(f"{path}.attentions.{layer}", _kind(attentions[layer]), attentions[layer], depth))


def _middle(builder: GraphBuilder, middle: Any) -> None:
    if middle is None:
        return
    first = len(builder)
    builder.add(Block("mid_block.resnets.0", "resnet", middle.resnets[0], MIDDLE))
    for number, resnet in enumerate(list(middle.resnets)[1:]):
        attention = middle.attentions[number] if len(middle.attentions) > number else None
        if attention is not None:
            builder.add(Block(f"mid_block.attentions.{number}", _kind(attention), attention, MIDDLE))
        builder.add(Block(f"mid_block.resnets.{number + 1}", "resnet", resnet, MIDDLE))
    builder.stage(middle, first)


def _sample(builder: GraphBuilder, name: str, module: nn.Module, depth: int) -> None:
    builder.add(Block(name, "sample", module, depth, derived=True))


def _kind(attention: nn.Module) -> str:
    return "transformer" if class_name(attention) == "Transformer2DModel" else "attention"


DIFFUSERS_UNET = Family(
    name="diffusers U-Net",
    matches=lambda root: class_name(root) == "UNet2DConditionModel",
    sites=diffusers_sites,
    names=(("sample",), ("timestep",), ("encoder_hidden_states", "class_labels")),
    graph=unet_graph,
    serves=dict.fromkeys(("SD1.x", "SD2.x", "SDXL", "LDM"), (*TOKENS_AND_BLOCKS, DATO_SCHEDULE)),
    splits=True,
    key_bias=mask_bias,
)

DIFFUSERS_DDPM = Family(
    name="diffusers DDPM U-Net",
    matches=lambda root: class_name(root) == "UNet2DModel",
    sites=lambda root: [],
    names=(("sample",), ("timestep",), ("class_labels",)),
    graph=unet_graph,
    serves={"DDPM": BLOCKS},
)
