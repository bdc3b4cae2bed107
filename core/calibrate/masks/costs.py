"""What each block costs, and what share of the network's multiply-adds a mask needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ...errors import RecipeError
from ...measure.macs import count_modules
from ...models.graph import BlockGraph
from ...plan.liveness import State, liveness

_MOST_FILLED = 500
MARGIN = 0.02
"""A mask is made for a share of the multiply-adds to within this."""


@dataclass(frozen=True)
class Costs:
    """Multiply-adds of one call: blocks [len(graph)], up- and downsamplers among them, and all the rest together."""

    graph: BlockGraph
    blocks: np.ndarray
    rest: float

    @property
    def call(self) -> float:
        """One dense call."""
        return float(self.blocks.sum()) + self.rest

    @property
    def masked(self) -> np.ndarray:
        """Share of a dense call that each masked block costs, [L]."""
        return self.blocks[list(self.graph.masked)] / self.call

    def share(self, run: np.ndarray) -> float:
        """Share of the dense run's multiply-adds that a mask bool [T, L] needs after liveness, in (0, 1]."""
        running = liveness(run, self.graph) == State.RUN
        return float((running @ self.blocks).sum() + self.rest * len(run)) / (self.call * len(run))

    def expected(self, p: np.ndarray) -> float:
        """The share for probabilities [T, L], before liveness; up- and downsamplers always run."""
        return float(1 - ((1 - p) @ self.masked).mean())


def measure_costs(graph: BlockGraph, network: nn.Module, call: Callable[[], Any]) -> Costs:
    """Count one dense call of the network."""
    whole, *parts = count_modules([network, *(block.module for block in graph.blocks)], call)
    blocks = np.array(parts, dtype=np.float64)
    return Costs(graph, blocks, float(whole - blocks.sum()))


def to_budget(scores: np.ndarray, target: float, costs: Costs) -> np.ndarray:
    """The mask bool [T, L] of the highest scores [T, L] whose share fits into `target`; the first call runs all.

    Raises :class:`RecipeError` for a target that not even an empty mask meets.
    """
    order = np.argsort(-scores[1:], axis=None, kind="stable")

    def first(count: int) -> np.ndarray:
        run = np.zeros(scores.shape, dtype=bool)
        run[0] = True
        run[1:].reshape(-1)[order[:count]] = True
        return run

    least = costs.share(first(0))
    if least > target + MARGIN:
        raise RecipeError(
            f"the target is out of reach: {least:.0%} of the multiply-adds run whatever the mask, ask for more"
        )
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if costs.share(first(middle)) <= target else (low, middle - 1)
    return _filled(live(first(low), costs.graph), order, target, costs)


def live(run: np.ndarray, graph: BlockGraph) -> np.ndarray:
    """The mask without the runs that nobody reads, bool [T, L]; the first call stays full. No output changes."""
    needed = np.ascontiguousarray((liveness(run, graph) == State.RUN)[:, list(graph.masked)])
    needed[0] = True
    return needed


def _filled(run: np.ndarray, order: np.ndarray, target: float, costs: Costs) -> np.ndarray:
    """Runs that somebody reads, added in this order wherever they still fit."""
    share, idle = costs.share(run), [place for place in order if not run[1:].reshape(-1)[place]]
    for place in idle[:_MOST_FILLED]:
        if target - share < costs.masked.min() / len(run):
            break
        more = run.copy()
        more[1:].reshape(-1)[place] = True
        needed = costs.share(more)
        if share < needed <= target:
            run, share = more, needed
    return run
