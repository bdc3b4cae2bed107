"""How settings become a mask for the model at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.models import unwrapped
from ..core.models.graph import BlockGraph
from ..core.plan.block_plan import compiled, evenly, graph_of
from ..core.plan.liveness import liveness
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import Mask, load_mask
from .serving import family_of


def mask_of(model: Any, settings: BlockSkip, calls: int) -> tuple[Mask, BlockGraph]:
    """The settings as a mask for this ModelPatcher's network and `calls` calls, and the network's blocks.

    The calls are evenly spaced; a mask of as many calls keeps its own timesteps. Raises :class:`SkipstoneError` for a model
    of no known family, or another than the mask was made for.
    """
    family = family_of(model)
    graph = graph_of(settings, family, unwrapped(model.model.diffusion_model))
    given = load_mask(settings)
    own = given is not None and len(given.timesteps) == calls
    return compiled(settings, graph, family.name, given.timesteps if own else evenly(calls)), graph


def states_of(mask: Mask, graph: BlockGraph) -> np.ndarray:
    """[calls, blocks] of :class:`State`: what runs, is reused, or is needed by nobody."""
    return liveness(mask.run, graph)[:, list(graph.masked)]
