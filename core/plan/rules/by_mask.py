"""A mask as a rule: its rows, mapped to the run's calls by timestep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.graph import BlockGraph
from ...recipe.mask import Mask
from ..mapping import crossed, nearest
from ..mask_fit import mapped
from ..run import Horizon
from .base import Moment, Rows


@dataclass(frozen=True)
class ByMask:
    """Follows a mask.

    Args:
        mask: a mask that fits the model (:func:`skipstone.core.plan.mask_fit.fitted`).

    Example:
        >>> mask = Mask(np.array([[True], [False]]), "toy", ("a",), (999.0, 0.0))
        >>> ByMask(mask).rows(BlockGraph((), (), frozenset()), Horizon((999.0, 0.0))).ravel().tolist()
        [True, False]
    """

    mask: Mask

    unannounced = ""

    def rows(self, graph: BlockGraph, horizon: Horizon) -> Rows:
        """See :class:`Rule`."""
        return mapped(self.mask, horizon.timesteps or ()).run.copy()

    def row(self, graph: BlockGraph, horizon: Horizon, at: Moment) -> np.ndarray:
        """See :class:`Rule`. A run that the mask has between two calls happens at the later one."""
        before, now = (nearest(self.mask.timesteps, t) for t in (at.before, at.timestep))
        return np.asarray(crossed(self.mask.run, before, now).any(axis=0))
