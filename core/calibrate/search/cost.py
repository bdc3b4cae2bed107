"""Modelled multiply-adds of a recipe, from its plan and counts of the network, so that a search is reproducible."""

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
    """Forwards of a network that were seen.

    Args:
        calls: how many.
        first: positional and keyword arguments of the first.

    Example:
        >>> Watched().calls
        0
    """

    calls: int = 0
    first: Arguments | None = None


@contextmanager
def watch(network: nn.Module) -> Iterator[Watched]:
    """Context manager that counts the network's forwards.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1)
        >>> with watch(layer) as seen:
        ...     output = layer(torch.zeros(1))
        >>> seen.calls
        1
    """
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
    """The cost of a dense run, and the share of it that a recipe's plan runs.

    Blocks are counted one by one; everything outside blocks (input and output layers, time embedding) runs at every call.
    `per_call` are the multiply-adds of one dense forward, over all rows of its batch.

    Args:
        network: a denoiser of a known family.
        first: arguments of a dense forward.
        timesteps: training timestep of each call.

    Example:
        >>> import torch
        >>> from diffusers import DiTTransformer2DModel
        >>> from skipstone.core.recipe.block_skip import BlockSkip
        >>> dit = DiTTransformer2DModel(1, 8, num_layers=2, sample_size=4)
        >>> call = (torch.zeros(1, 4, 4, 4),), {"timestep": torch.tensor([1]), "class_labels": torch.tensor([1])}
        >>> costs = CostModel(dit, call, timesteps=(999.0, 500.0))
        >>> costs.share(Recipe()), 0.5 < costs.share(Recipe(skip=BlockSkip(rule="interval", every=2))) < 1
        (1.0, True)
    """

    def __init__(self, network: nn.Module, first: Arguments, timesteps: tuple[float, ...]) -> None:
        """Run one dense forward and count."""
        self._network, self._timesteps = network, timesteps
        self._family, self._first = recognise(network), first
        self._costs: dict[tuple[str, ...], np.ndarray] = {}
        self.per_call = count_macs(lambda: network(*first[0], **first[1]))

    def share(self, recipe: Recipe) -> float:
        """Share of the dense run's multiply-adds, in blocks that run and outside blocks; token maps are not counted."""
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
