"""The cost of each block, and the share of the network's multiply-adds that a mask needs."""

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
    """Multiply-adds of one call.

    Args:
        graph: of the network.
        blocks: of each block of the graph, [len(graph)], up- and downsamplers included.
        rest: of everything that belongs to no block.

    Example:
        >>> costs = Costs(model.graph, np.array([1.0, 1.0, 1.0, 5.0]), rest=2.0)
        >>> costs.call, costs.masked.tolist()
        (10.0, [0.1, 0.1, 0.1, 0.5])
    """

    graph: BlockGraph
    blocks: np.ndarray
    rest: float

    @property
    def call(self) -> float:
        """Multiply-adds of one dense call."""
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
        """Share for probabilities [T, L], before liveness; up- and downsamplers always run."""
        return float(1 - ((1 - p) @ self.masked).mean())


def measure_costs(graph: BlockGraph, network: nn.Module, call: Callable[[], Any]) -> Costs:
    """Run one dense call and count.

    Args:
        graph: of the network.
        network: whose call is counted.
        call: runs the network once.

    Example:
        >>> import torch
        >>> network = model.denoiser.network
        >>> x, t = torch.zeros(2, 6, dtype=torch.float64), torch.tensor(1.0)
        >>> measure_costs(model.graph, network, lambda: network(x, t)).blocks.tolist()  # 2 x 6 x 6 each
        [72.0, 72.0, 72.0, 72.0]
    """
    whole, *parts = count_modules([network, *(block.module for block in graph.blocks)], call)
    blocks = np.array(parts, dtype=np.float64)
    return Costs(graph, blocks, float(whole - blocks.sum()))


def to_budget(scores: np.ndarray, target: float, costs: Costs) -> np.ndarray:
    """The mask bool [T, L] of the highest scores that fit into a budget; the first call runs all blocks.

    Args:
        scores: [T, L].
        target: share of the multiply-adds.
        costs: of the blocks.

    Raises :class:`RecipeError` for a target that not even an empty mask meets.

    Example:
        >>> scores = np.arange(16.0).reshape(4, 4)
        >>> to_budget(scores, 0.5, model.costs).sum(axis=1).tolist()
        [4, 0, 0, 4]
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
    """Drop runs whose values are never read; the outputs do not change. The first call stays full.

    Args:
        run: mask bool [T, L].
        graph: of the network.

    Example:
        >>> from skipstone.core.models.graph import Block
        >>> chain = BlockGraph(tuple(Block(n, "block", nn.Identity(), 0) for n in "ab"), (frozenset(), {0}), frozenset({1}))
        >>> live(np.array([[True, True], [True, False]]), chain)[1].tolist()  # b repeats its value: a is not read
        [False, False]
    """
    needed = np.ascontiguousarray((liveness(run, graph) == State.RUN)[:, list(graph.masked)])
    needed[0] = True
    return needed


def _filled(run: np.ndarray, order: np.ndarray, target: float, costs: Costs) -> np.ndarray:
    """Add runs whose values are read, in this order, wherever they still fit."""
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
