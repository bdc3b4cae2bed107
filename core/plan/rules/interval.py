"""Every n-th call runs all blocks, the others none. FORA (arXiv 2407.01425) is this rule on a transformer's branches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...models.graph import BlockGraph
from ..run import Horizon
from .base import Moment, Rows, full_calls, per_step, rows_with, steps_of


def interval(calls: int, graph: BlockGraph, every: int) -> Rows:
    """Return rows in which every `every`-th call runs all blocks and the others none.

    Args:
        calls: number of calls.
        graph: the model's blocks.
        every: number of calls from one full call to the next.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 0),), (frozenset(),), frozenset({0}))
        >>> interval(4, graph, every=2).ravel().tolist()
        [True, False, True, False]
    """
    return rows_with(calls, graph, full_calls(calls, every), depth=-1)


@dataclass(frozen=True)
class Interval:
    """The rule of :func:`interval`, counted in sampler steps.

    Args:
        every: number of steps from one full step to the next.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 0),), (frozenset(),), frozenset({0}))
        >>> Interval(every=2).rows(graph, Horizon((999.0, 500.0, 0.0))).ravel().tolist()
        [True, False, True]
    """

    every: int

    unannounced = ""

    def rows(self, graph: BlockGraph, horizon: Horizon) -> Rows:
        """See :class:`Rule`."""
        return per_step(interval(steps_of(horizon), graph, self.every), horizon)

    def row(self, graph: BlockGraph, horizon: Horizon, at: Moment) -> np.ndarray:
        """See :class:`Rule`."""
        return np.full(len(graph.masked), at.turn % self.every == 0)
