"""DeepCache (arXiv 2312.00858): between full calls only the blocks outside one skip branch run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import RecipeError
from ...models.graph import BlockGraph
from ...recipe.block_skip import SkipMode
from ..run import Horizon
from .base import Moment, Rows, full_calls, per_step, row_to, rows_with, steps_of


def deepcache(calls: int, graph: BlockGraph, every: int, branch: int = 0, mode: SkipMode = "uniform") -> Rows:
    """Rows for a number of calls: between full calls only blocks outside skip `branch` run (its `cache_branch_id`).

    Args:
        calls: of the run.
        every: calls from one full call to the next.
        mode: "uniform", or "quad" for as many full calls, placed by :func:`quad_calls`.
    """
    uneven = mode == "quad" and 1 < every < calls
    full = quad_calls(calls, -(-calls // every)) if uneven else full_calls(calls, every)
    return rows_with(calls, graph, full, depth=branch)


def quad_calls(calls: int, count: int, centre: int | None = None, power: float = 1.4) -> list[int]:
    """DeepCache's non-uniform schedule, as its package has it: `count` full calls, denser near `centre` (30 % of the run).

    Offsets from the centre are equal steps between -centre and calls - centre, distorted by `power`. The root of the negative
    end is the complex one, of which the real part counts. Powers fall to 1 until all calls differ.
    """
    centre = calls * 3 // 10 if centre is None else centre
    while power > 1:
        grid = np.linspace(complex(-centre) ** (1 / power), (calls - centre) ** (1 / power), count + 1)
        offsets = np.unique((grid**power).real.astype(int))[1:-1]
        if len(offsets) == count - 1:
            return [0, *(centre + int(offset) for offset in offsets)]
        power -= 0.02
    raise RecipeError(f"mode='quad' cannot place {count} full calls among {calls}: use mode='uniform'")


@dataclass(frozen=True)
class DeepCache:
    """See :func:`deepcache`."""

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
