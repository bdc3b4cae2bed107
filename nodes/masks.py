"""Masks for the model at hand: from settings, as states for a picture, and in one line for the node."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.errors import RecipeError
from ..core.models import unwrapped
from ..core.models.graph import BlockGraph
from ..core.plan.block_plan import even_timesteps, graph_of, rule_mask
from ..core.plan.liveness import liveness
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import Mask, load_mask
from .serving import family_of


def mask_of(model: Any, settings: BlockSkip | None, calls: int) -> tuple[Mask, BlockGraph]:
    """Settings as a mask for a model, and the blocks of its network.

    Args:
        model: a ModelPatcher.
        settings: a rule or a mask; None where the node before failed.
        calls: number of model calls, evenly spaced. A mask of as many calls keeps its own timesteps.

    Raises :class:`SkipstoneError` without settings, for a model of no known family, and for another model than the mask's.
    """
    if settings is None:
        raise RecipeError("no mask came in: see the node before")
    family = family_of(model)
    graph = graph_of(settings, family, unwrapped(model.model.diffusion_model))
    mask = load_mask(settings)
    own = mask is not None and len(mask.timesteps) == calls
    return rule_mask(settings, graph, family.name, mask.timesteps if own else even_timesteps(calls)), graph


def states_of(mask: Mask, graph: BlockGraph) -> np.ndarray:
    """[calls, blocks] of :class:`State`: which blocks run, are reused, or are not needed.

    Args:
        mask: for the graph's network.
        graph: of the network.
    """
    return liveness(mask.run, graph)[:, list(graph.masked)]


def summary(mask: Mask) -> str:
    """A mask in one line: family, size, share of blocks that run."""
    return f"{mask.family}, {len(mask.run)} steps x {len(mask.blocks)} blocks, {mask.share:.0%} run"
