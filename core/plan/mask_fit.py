"""A mask brought to a model and to the calls of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import MaskError
from ..models.family import architecture
from ..models.graph import BlockGraph
from ..recipe.mask import Mask
from .mapping import mapped_rows


def fitted(mask: Mask, family: str, graph: BlockGraph) -> Mask:
    """The mask with the block names of a model. Raises :class:`MaskError` unless it was made for such a model.

    A mask made in one code base fits the same architecture in another (ldm and diffusers U-Nets).
    """
    names = tuple(graph.blocks[i].name for i in graph.masked)
    if (family, names) == (mask.family, mask.blocks):
        return mask
    if architecture(family) != architecture(mask.family):
        raise MaskError(f"the mask is for a {mask.family}, this model is a {family}: choose a mask made for it")
    if not mask.signature or mask.signature != graph.signature:
        raise MaskError(
            f"the mask has {len(mask.blocks)} blocks, this model {len(names)} others: make a mask for this model"
        )
    return replace(mask, family=family, blocks=names)


def mapped(mask: Mask, timesteps: tuple[float, ...]) -> Mask:
    """The mask for a run with other timesteps (:func:`mapped_rows`); the first call runs all."""
    if len(timesteps) == len(mask.timesteps) and np.allclose(timesteps, mask.timesteps, atol=1.0):
        return mask
    run = mapped_rows(mask.run, mask.timesteps, timesteps)
    return replace(mask, run=run, timesteps=tuple(timesteps), probabilities=None)
