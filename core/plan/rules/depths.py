"""DaTo's cache depths (arXiv 2501.00375): one code per call, from 0 for a repeated call to 10 for a full one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...models.graph import MIDDLE, BlockGraph
from ..mapping import crossed, depth_rows
from ..run import Horizon
from .base import Moment, Rows, row_to

FULL_DEPTH = 10
"""Codes from here on are full calls. DaTo's lists use 11, 12 and 13."""


def depths(codes: Sequence[int], graph: BlockGraph) -> Rows:
    """Return the rows of a published list. Call 0 runs everything.

    Args:
        codes: one code for each call from 1 on: 0 repeats the call before, d runs the d outermost levels, 10 and more run all.
        graph: the model's blocks.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 1),), (frozenset(),), frozenset({0}))
        >>> depths((0, 1, 2, 12), graph).ravel().tolist()
        [True, False, False, True, True]
    """
    levels = [MIDDLE, *(MIDDLE if code >= FULL_DEPTH else code - 1 for code in codes)]
    return np.stack([row_to(graph, depth) for depth in levels])


@dataclass(frozen=True)
class Depths:
    """Follows a list of depth codes, mapped to the run's calls by timestep.

    Args:
        depths: one code for each call from 1 on (:func:`depths`).

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 1),), (frozenset(),), frozenset({0}))
        >>> Depths((0, 12, 0, 0)).rows(graph, Horizon((999.0, 500.0, 0.0))).ravel().tolist()
        [True, True, False]
    """

    depths: tuple[int, ...]

    unannounced = ""

    def rows(self, graph: BlockGraph, horizon: Horizon) -> Rows:
        """See :class:`Rule`."""
        return depth_rows(depths(self.depths, graph), [horizon.positions.at(t) for t in horizon.timesteps or ()])

    def row(self, graph: BlockGraph, horizon: Horizon, at: Moment) -> np.ndarray:
        """See :class:`Rule`. A full call that the list has between two calls happens at the later one."""
        rows, now = depths(self.depths, graph), self._place(horizon, at.timestep)
        passed = crossed(rows, self._place(horizon, at.before), now)
        full = passed.all(axis=1)
        return passed[full.argmax()] if full.any() else rows[now]

    def _place(self, horizon: Horizon, timestep: float) -> int:
        return round(horizon.positions.at(timestep) * len(self.depths))
