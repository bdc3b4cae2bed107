"""Transformers that fuse attention and feed-forward of a block: SD3 (MMDiT), Flux and Chroma. Whole blocks are skipped.

With branch caching a block is kept as the difference it makes; with output caching as what comes out of it.
"""

from __future__ import annotations

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
    """Rotary and joint positions make merged keys wrong: no token merging."""
    return []


def _graph(*stacks: tuple[str, Carries]) -> object:
    def graph(root: nn.Module, caching: Caching = "branch") -> BlockGraph:
        builder = GraphBuilder(caching)
        depth = 0
        for path, carries in stacks:
            for number, block in enumerate(getattr(root, path)):
                builder.add(Block(f"{path}.{number}", "block", block, depth, carries=_taken(block, carries)))
                depth += 1
        return builder.build()

    return graph


def _taken(block: nn.Module, carries: Carries) -> Carries:
    """Of the inputs that a kind of block continues, those that this one takes: Chroma's single blocks take text and picture in
    one, and a block that takes anything (*args) takes all."""
    names = signature(type(unwrapped(block)).forward).parameters
    return tuple(c for c in carries if c[0] in names) or carries


def _family(
    name: str,
    roots: tuple[str, ...],
    has: str,
    graph: object,
    names: tuple[tuple[str, ...], ...],
    models: tuple[str, ...],
    time_scale: float = 1.0,
) -> Family:
    return Family(
        name=name,
        matches=lambda root: class_name(root) in roots and hasattr(root, has),
        sites=_none,
        names=names,  # type: ignore[arg-type]
        graph=graph,  # type: ignore[arg-type]
        serves=dict.fromkeys(models, BLOCKS),
        cachings=("branch", "output"),
        time_scale=time_scale,
    )


_HOST_NAMES = (("x",), ("timestep", "timesteps", "t"), ("context", "y"))
_DIFFUSERS_NAMES = (("hidden_states",), ("timestep",), ("encoder_hidden_states",))

SD3 = _family(
    "SD3",
    ("OpenAISignatureMMDITWrapper", "MMDiT", "MMDiTX"),
    "joint_blocks",
    _graph(("joint_blocks", _JOINT)),
    _HOST_NAMES,
    ("SD3",),
)
DIFFUSERS_SD3 = _family(
    "diffusers SD3",
    ("SD3Transformer2DModel",),
    "transformer_blocks",
    _graph(("transformer_blocks", _DIFFUSERS)),
    _DIFFUSERS_NAMES,
    ("SD3",),
)
FLUX = _family(
    "Flux",
    ("Flux", "Chroma", "IntegratedFluxTransformer2DModel", "IntegratedChromaTransformer2DModel"),
    "double_blocks",
    _graph(("double_blocks", _DOUBLE), ("single_blocks", _SINGLE)),
    _HOST_NAMES,
    ("Flux", "Chroma"),
    time_scale=1000.0,
)
DIFFUSERS_FLUX = _family(
    "diffusers Flux",
    ("FluxTransformer2DModel", "ChromaTransformer2DModel"),
    "single_transformer_blocks",
    _graph(("transformer_blocks", _DIFFUSERS), ("single_transformer_blocks", _DIFFUSERS)),
    _DIFFUSERS_NAMES,
    ("Flux", "Chroma"),
    time_scale=1000.0,
)
