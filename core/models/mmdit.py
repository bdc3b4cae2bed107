"""Transformers whose attention runs on text and picture together: SD3 (MMDiT), Flux and Chroma. Whole blocks are skipped.

With branch caching, a block's value is the difference between its output and its input; with output caching, its output.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

from torch import nn

from ..recipe.block_skip import Caching
from .family import BLOCKS, Family, Site, class_name, unwrapped
from .graph import Block, BlockGraph, GraphBuilder

Carries = tuple[tuple[str, int], ...]
_JOINT = (("context", 0), ("x", 1))
_DIFFUSERS = (("encoder_hidden_states", 1), ("hidden_states", 0))
_DOUBLE = (("img", 0), ("txt", 1))
_SINGLE = (("x", 0),)


def _none(root: nn.Module) -> list[Site]:
    """No token merging: with rotary or joint positions, a merged key has no one position."""
    return []


def _graph(stacks: tuple[tuple[str, Carries], ...]) -> Callable[..., BlockGraph]:
    """The graph function of a network that runs these lists of blocks one after the other."""

    def graph(root: nn.Module, caching: Caching = "branch") -> BlockGraph:
        builder = GraphBuilder(caching)
        blocks = ((path, carries, n, block) for path, carries in stacks for n, block in enumerate(getattr(root, path)))
        for depth, (path, carries, number, block) in enumerate(blocks):
            builder.add(Block(f"{path}.{number}", "block", block, depth, carries=_carried(block, carries)))
        return builder.build()

    return graph


def _carried(block: nn.Module, carries: Carries) -> Carries:
    """The inputs of a kind of block that this one has: Chroma's single blocks have one input for text and picture.

    A block with `*args` has all of them.
    """
    names = signature(type(unwrapped(block)).forward).parameters
    return tuple(c for c in carries if c[0] in names) or carries


def _family(
    name: str,
    roots: tuple[str, ...],
    models: tuple[str, ...],
    names: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    *stacks: tuple[str, Carries],
    time_scale: float = 1.0,
) -> Family:
    """A family whose networks have one of these class names and these lists of blocks."""
    return Family(
        name=name,
        matches=lambda root: class_name(root) in roots and all(hasattr(root, path) for path, _ in stacks),
        sites=_none,
        names=names,
        graph=_graph(stacks),
        serves=dict.fromkeys(models, BLOCKS),
        cachings=("branch", "output"),
        time_scale=time_scale,
    )


_HOST_NAMES = (("x",), ("timestep", "timesteps", "t"), ("context", "y"))
_DIFFUSERS_NAMES = (("hidden_states",), ("timestep",), ("encoder_hidden_states",))
_SD3_ROOTS = ("OpenAISignatureMMDITWrapper", "MMDiT", "MMDiTX")
_FLUX_ROOTS = ("Flux", "Chroma", "IntegratedFluxTransformer2DModel", "IntegratedChromaTransformer2DModel")
_FLUX_MODELS = ("Flux", "Chroma")

SD3 = _family("SD3", _SD3_ROOTS, ("SD3",), _HOST_NAMES, ("joint_blocks", _JOINT))
DIFFUSERS_SD3 = _family(
    "diffusers SD3", ("SD3Transformer2DModel",), ("SD3",), _DIFFUSERS_NAMES, ("transformer_blocks", _DIFFUSERS)
)
FLUX = _family(
    "Flux", _FLUX_ROOTS, _FLUX_MODELS, _HOST_NAMES,
    ("double_blocks", _DOUBLE), ("single_blocks", _SINGLE), time_scale=1000.0,
)  # fmt: skip
DIFFUSERS_FLUX = _family(
    "diffusers Flux", ("FluxTransformer2DModel", "ChromaTransformer2DModel"), _FLUX_MODELS, _DIFFUSERS_NAMES,
    ("transformer_blocks", _DIFFUSERS), ("single_transformer_blocks", _DIFFUSERS), time_scale=1000.0,
)  # fmt: skip
