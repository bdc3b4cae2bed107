"""Fits a mask to a model and to the calls of a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import MaskError
from ..models.family import architecture
from ..models.graph import BlockGraph
from ..recipe.mask import Mask
from .mapping import mapped_rows


def fitted(mask: Mask, family: str, graph: BlockGraph) -> Mask:
    """Return the mask with the block names of a model.

    A mask made in one code base fits the same architecture in another (ldm and diffusers U-Nets).

    Args:
        mask: any mask.
        family: name of the model's family.
        graph: the model's blocks.

    Raises :class:`MaskError` if the mask was made for another architecture.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 0),), (frozenset(),), frozenset({0}))
        >>> fitted(Mask(np.ones((2, 1), dtype=bool), "toy", ("a",), (999.0, 0.0)), "toy", graph).blocks
        ('a',)
    """
    names = tuple(graph.blocks[i].name for i in graph.masked)
    if (family, names) == (mask.family, mask.blocks):
        return mask
    if architecture(family) != architecture(mask.family):
        raise MaskError(f"the mask is for a {mask.family}, this model is a {family}: choose a mask made for it")
    if not mask.signature or mask.signature != graph.signature:
        raise MaskError(
            f"the mask has {len(mask.blocks)} blocks, this model has {len(names)} others: make a mask for this model"
        )
    return replace(mask, family=family, blocks=names)


def mapped(mask: Mask, timesteps: tuple[float, ...]) -> Mask:
    """Return the mask for a run with other timesteps (:func:`mapped_rows`).

    Args:
        mask: any mask.
        timesteps: training timestep of each call of the run.

    Example:
        >>> mask = Mask(np.array([[True], [False], [True], [False]]), "toy", ("a",), (900.0, 600.0, 300.0, 0.0))
        >>> mapped(mask, (900.0, 300.0)).run.tolist()
        [[True], [True]]
    """
    if len(timesteps) == len(mask.timesteps) and np.allclose(timesteps, mask.timesteps, atol=1.0):
        return mask
    run = mapped_rows(mask.run, mask.timesteps, timesteps)
    return replace(mask, run=run, timesteps=tuple(timesteps), probabilities=None)
