"""Modelled multiply-adds of a recipe: from the plan and the network's own counts, so that a search repeats exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ...measure.macs import count_macs, count_modules
from ...models import recognise, unwrapped
from ...models.graph import BlockGraph
from ...plan.block_plan import graph_of, rule_mask
from ...plan.liveness import State, rectified
from ...recipe.recipe import Recipe

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class Watched:
    """Forwards of a network: how many, and the arguments of the first."""

    calls: int = 0
    first: Arguments | None = None


@contextmanager
def watch(network: nn.Module) -> Iterator[Watched]:
    """Count the network's forwards."""
    seen = Watched()

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.calls += 1
        seen.first = seen.first or (args, kwargs)

    handle = network.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


class CostModel:
    """What a dense run costs, and which share of it a recipe's plan runs.

    per_call: multiply-adds of one dense forward, all rows of its batch. Blocks are counted one by one; what belongs to no
    block (input and output layers, time embedding) runs at every call.
    """

    def __init__(self, network: nn.Module, first: Arguments, timesteps: tuple[float, ...]) -> None:
        """Run one dense forward with the arguments `first` and count."""
        self._network, self._timesteps = network, timesteps
        self._family, self._first = recognise(network), first
        self._costs: dict[tuple[str, ...], np.ndarray] = {}
        self.per_call = count_macs(lambda: network(*first[0], **first[1]))

    def share(self, recipe: Recipe) -> float:
        """Share of the dense run's multiply-adds in blocks that run and in what is no block; token maps not counted."""
        skip = recipe.skip
        if skip is None or skip.neutral:
            return 1.0
        graph = graph_of(skip, self._family, unwrapped(self._network))
        mask = rule_mask(skip, graph, self._family.name, self._timesteps)
        idle = rectified(mask.run, graph, skip.rectify)[0] != State.RUN
        return 1.0 - float((idle @ self._block_costs(graph)).sum()) / (self.per_call * len(self._timesteps))

    def _block_costs(self, graph: BlockGraph) -> np.ndarray:
        """Multiply-adds of each block of the graph in one dense forward."""
        names = tuple(block.name for block in graph.blocks)
        if names not in self._costs:
            modules = [block.module for block in graph.blocks]
            counts = count_modules(modules, lambda: self._network(*self._first[0], **self._first[1]))
            self._costs[names] = np.array(counts, dtype=np.float64)
        return self._costs[names]
