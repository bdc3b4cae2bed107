"""Every n-th call runs all blocks, the others none. FORA (arXiv 2407.01425) is this rule on a transformer's branches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.graph import BlockGraph
from ..run import Horizon
from .base import Moment, Rows, full_calls, per_step, rows_with, steps_of


def interval(calls: int, graph: BlockGraph, every: int) -> Rows:
    """Rows for a number of calls: every `every`-th call runs all blocks, the others none."""
    return rows_with(calls, graph, full_calls(calls, every), depth=-1)


@dataclass(frozen=True)
class Interval:
    """See :func:`interval`."""

    every: int

    unannounced = ""

    def rows(self, graph: BlockGraph, horizon: Horizon) -> Rows:
        """See :class:`Rule`."""
        return per_step(interval(steps_of(horizon), graph, self.every), horizon)

    def row(self, graph: BlockGraph, horizon: Horizon, at: Moment) -> np.ndarray:
        """See :class:`Rule`."""
        return np.full(len(graph.masked), at.turn % self.every == 0)
