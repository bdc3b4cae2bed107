"""What a mask or a rule does on a network: which blocks run, are reused, or are not needed, at evenly spaced calls."""

from __future__ import annotations

import numpy as np
from torch import nn

from ..models.family import Family
from ..models.graph import BlockGraph
from ..recipe.block_skip import BlockSkip
from ..recipe.mask import Mask, load_mask
from .block_plan import even_timesteps, graph_of, rule_mask
from .liveness import liveness


def mask_for(network: nn.Module, family: Family, settings: BlockSkip, calls: int) -> tuple[Mask, BlockGraph]:
    """Settings as a mask for a network, and the network's blocks.

    Args:
        network: the U-Net or transformer.
        family: of the network.
        settings: a rule or a mask.
        calls: number of calls, evenly spaced. A mask of as many calls keeps its own timesteps.

    Raises :class:`SkipstoneError` for a network without blocks, and for another one than the mask's.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> from ..models import recognise
        >>> model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8)
        >>> mask, graph = mask_for(model, recognise(model), BlockSkip(rule="interval", every=2), calls=4)
        >>> mask.run[:, 0].tolist(), len(graph)
        ([True, False, True, False], 4)
    """
    graph = graph_of(settings, family, network)
    mask = load_mask(settings)
    own = mask.timesteps if mask is not None and len(mask.timesteps) == calls else even_timesteps(calls)
    return rule_mask(settings, graph, family.name, own), graph


def states_of(mask: Mask, graph: BlockGraph) -> np.ndarray:
    """[calls, blocks] of :class:`State`: which blocks run, are reused, or are not needed.

    Args:
        mask: for the graph's network.
        graph: of the network.

    Example:
        >>> from ..models.graph import Block
        >>> blocks = tuple(Block(name, "block", nn.Identity(), 0) for name in "ab")
        >>> chain = BlockGraph(blocks, (frozenset(), frozenset({0})), frozenset({1}))
        >>> states_of(Mask(np.array([[True, True], [False, False]]), "toy", ("a", "b"), (999.0, 0.0)), chain).tolist()
        [[2, 2], [0, 1]]
    """
    return liveness(mask.run, graph)[:, list(graph.masked)]
