"""DeepCache (arXiv 2312.00858): between full calls, only the blocks outside one skip branch run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import RecipeError
from ...models.graph import BlockGraph
from ...recipe.block_skip import SkipMode
from ..run import Horizon
from .base import Moment, Rows, full_calls, per_step, row_to, rows_with, steps_of


def deepcache(calls: int, graph: BlockGraph, every: int, branch: int = 0, mode: SkipMode = "uniform") -> Rows:
    """Return DeepCache's rows: between full calls, only the blocks outside skip `branch` run.

    Args:
        calls: number of calls.
        graph: the model's blocks.
        every: number of calls from one full call to the next.
        branch: DeepCache's `cache_branch_id`, 0 the outermost skip.
        mode: "uniform", or "quad" for as many full calls, placed by :func:`quad_calls`.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> graph = BlockGraph((Block("deep", "block", nn.Identity(), 5),), (frozenset(),), frozenset({0}))
        >>> deepcache(4, graph, every=3).ravel().tolist()
        [True, False, False, True]
    """
    uneven = mode == "quad" and 1 < every < calls
    full = quad_calls(calls, -(-calls // every)) if uneven else full_calls(calls, every)
    return rows_with(calls, graph, full, depth=branch)


def quad_calls(calls: int, count: int, centre: int | None = None, power: float = 1.4) -> list[int]:
    """Return DeepCache's non-uniform full calls, as its released code computes them: denser near `centre`.

    Args:
        calls: number of calls.
        count: number of full calls.
        centre: call around which they are dense; 30 % of the run by default.
        power: exponent of the spacing; lowered towards 1 until all full calls differ.

    Raises :class:`RecipeError` if they do not fit.

    Example:
        >>> quad_calls(20, 5)
        [0, 4, 6, 10, 15]
    """
    centre = calls * 3 // 10 if centre is None else centre
    while power > 1:
        # Even steps from -centre to calls - centre, in the space of roots. The root of -centre is complex; its real part
        # counts, as in the released code.
        grid = np.linspace(complex(-centre) ** (1 / power), (calls - centre) ** (1 / power), count + 1)
        offsets = np.unique((grid**power).real.astype(int))[1:-1]
        if len(offsets) == count - 1:
            return [0, *(centre + int(offset) for offset in offsets)]
        power -= 0.02
    raise RecipeError(f"mode='quad' cannot place {count} full calls among {calls}: use mode='uniform'")


@dataclass(frozen=True)
class DeepCache:
    """The rule of :func:`deepcache`.

    Args:
        every: number of steps from one full step to the next.
        branch: skip branch outside of which blocks always run, 0 the outermost.
        mode: spacing of the full steps.

    Example:
        >>> DeepCache(every=3, mode="quad").unannounced.split(":")[0]
        "mode='quad' needs the number of calls, which is not known ahead here"
    """

    every: int
    branch: int = 0
    mode: SkipMode = "uniform"

    @property
    def unannounced(self) -> str:
        """See :class:`Rule`."""
        if self.mode == "uniform":
            return ""
        return "mode='quad' needs the number of calls, which is not known ahead here: full calls were evenly spaced"

    def rows(self, graph: BlockGraph, horizon: Horizon) -> Rows:
        """See :class:`Rule`."""
        return per_step(deepcache(steps_of(horizon), graph, self.every, self.branch, self.mode), horizon)

    def row(self, graph: BlockGraph, horizon: Horizon, at: Moment) -> np.ndarray:
        """See :class:`Rule`."""
        full = np.ones(len(graph.masked), dtype=bool)
        return full if at.turn % self.every == 0 else row_to(graph, self.branch)
