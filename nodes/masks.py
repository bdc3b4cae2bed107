"""Masks for the model at hand: from settings, as states for a picture, and in one line for the node."""

from __future__ import annotations

from typing import Any

from ..core.errors import RecipeError
from ..core.models import unwrapped
from ..core.models.graph import BlockGraph
from ..core.plan.mask_states import mask_for
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import Mask
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
    return mask_for(unwrapped(model.model.diffusion_model), family_of(model), settings, calls)


def summary(mask: Mask) -> str:
    """A mask in one line: family, size, share of blocks that run."""
    return f"{mask.family}, {len(mask.run)} steps x {len(mask.blocks)} blocks, {mask.share:.0%} run"
