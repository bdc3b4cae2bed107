"""DaTo's cache depths (arXiv 2501.00375): a code for each call, from 0 for a repeated call to 10 for a full one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...models.graph import MIDDLE, BlockGraph
from ..mapping import crossed, depth_rows
from ..run import Horizon
from .base import Moment, Rows, row_to

FULL_DEPTH = 10
"""DaTo writes full calls as 11, 12 or 13; so does anything from here on."""


def depths(codes: Sequence[int], graph: BlockGraph) -> Rows:
    """Rows for one code for each call from 1 on, as published; call 0 runs everything.

    0 repeats the call before, d runs the d outermost levels, 10 and above all.
    """
    levels = [MIDDLE, *(MIDDLE if code >= FULL_DEPTH else code - 1 for code in codes)]
    return np.stack([row_to(graph, depth) for depth in levels])


@dataclass(frozen=True)
class Depths:
    """A list of codes, mapped to the run's calls by timestep."""

    depths: tuple[int, ...]

    unannounced = ""

    def rows(self, graph: BlockGraph, horizon: Horizon) -> Rows:
        """See :class:`Rule`."""
        return depth_rows(depths(self.depths, graph), [horizon.positions.at(t) for t in horizon.timesteps or ()])

    def row(self, graph: BlockGraph, horizon: Horizon, at: Moment) -> np.ndarray:
        """See :class:`Rule`. A full call that lies between two calls runs at the later one."""
        rows, now = depths(self.depths, graph), self._place(horizon, at.timestep)
        passed = crossed(rows, self._place(horizon, at.before), now)
        full = passed.all(axis=1)
        return passed[full.argmax()] if full.any() else rows[now]

    def _place(self, horizon: Horizon, timestep: float) -> int:
        return round(horizon.positions.at(timestep) * len(self.depths))
