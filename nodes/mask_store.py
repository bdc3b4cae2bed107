"""How settings become a mask for the model at hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.blocks import Family, recognise, unwrapped
from ..core.blocks.graph import BlockGraph
from ..core.errors import ModelError
from ..core.plan.liveness import liveness
from ..core.plan.mask import Mask
from ..core.plan.skips import compiled, evenly, graph_of
from ..core.recipe_skip import BlockSkip
from .patch import SERVES


def mask_of(model: Any, settings: BlockSkip, calls: int) -> tuple[Mask, BlockGraph]:
    """The settings as a mask for this ModelPatcher's network and `calls` evenly spaced calls, and the network's blocks.

    Raises :class:`SkipstoneError` for a model of no known family, or another than the mask was made for.
    """
    family = family_of(model)
    graph = graph_of(settings, family, unwrapped(model.model.diffusion_model))
    return compiled(settings, graph, family.name, evenly(calls)), graph


def family_of(model: Any) -> Family:
    """The family of a ModelPatcher's network. Raises :class:`ModelError` that names those that are known."""
    try:
        return recognise(unwrapped(model.model.diffusion_model))
    except ModelError:
        raise ModelError(f"{type(model.model).__name__} is not supported: {SERVES[BlockSkip.kind]}") from None


def states_of(mask: Mask, graph: BlockGraph) -> np.ndarray:
    """[calls, blocks] of :class:`State`: what runs, is reused, or is needed by nobody."""
    return liveness(mask.run, graph)[:, list(graph.masked)]
