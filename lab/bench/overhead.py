"""The cost of Skipstone when there is nothing to merge: microseconds per call, and nothing at all for neutral settings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch
from torch import nn

from ...core.engine.call import Call
from ...core.engine.clock import Stream
from ...core.engine.engine import Engine
from ...core.measure.timing import interleave, per_iteration
from ...core.recipe.recipe import Recipe
from ...core.recipe.token_merge import TokenMerge
from ...pipelines.accelerate import accelerate
from .one_block import UNetModel, new_block

SITES = 16
"""Transformer blocks of SD1.5."""
_CHANNELS, _SIDE, _CONTEXT = 16, 4, 8
NOTHING_ABOVE = TokenMerge(threshold=0.999999, checkpoints=(0,), absolute=True)


def overhead_costs(loops: int = 100, runs: int = 20) -> dict[str, Any]:
    """Microseconds per network call on 16 sites, and the number of overrides that a neutral recipe installs.

    Args:
        loops: calls per measurement.
        runs: number of measurements.

    Example:
        >>> overhead_costs()["sites"]  # doctest: +SKIP
        16
    """
    root = UNetModel([new_block(_CHANNELS, 2, _CONTEXT, seed) for seed in range(SITES)])
    return {
        "sites": SITES,
        "bracket_us": bracket_cost(root, loops, runs) * 1e6,
        "nothing_to_merge_us": idle_cost(root, runs) * 1e6,
        "neutral_overrides": neutral_overrides(root),
    }


def bracket_cost(root: nn.Module, loops: int, runs: int) -> float:
    """Seconds of `Engine.call` alone: clock, plan, and overrides on and off all sites.

    Args:
        root: the network.
        loops: calls per measurement.
        runs: number of measurements.

    Example:
        >>> bracket_cost(UNetModel([new_block(16, 2, 8)]), loops=1, runs=1) > 0
        True
    """
    engine = Engine(root, Recipe(merge=NOTHING_ABOVE))
    calls = _calls()

    def bracket() -> None:
        with engine.call(next(calls)):
            pass

    engine.begin()
    return per_iteration(bracket, loops, runs)


@torch.no_grad()
def idle_cost(root: nn.Module, runs: int) -> float:
    """Seconds by which a forward is slower when no pair reached the threshold at the last checkpoint.

    Args:
        root: the network.
        runs: number of measurements.

    Example:
        >>> idle_cost(UNetModel([new_block(16, 2, 8)]), runs=1) < 1
        True
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, _CHANNELS, _SIDE, _SIDE, generator=generator)
    args = (x.contiguous(memory_format=torch.channels_last), torch.full((2,), 500.0))
    context = torch.randn(2, 4, _CONTEXT, generator=generator)

    def forward() -> None:
        root(*args, context=context)

    engine, calls = Engine(root, Recipe(merge=NOTHING_ABOVE)), _calls()

    def accelerated() -> None:
        with engine.call(next(calls)):
            forward()

    engine.begin()
    took = interleave({"off": forward, "on": accelerated}, runs)
    return took["on"].minimum - took["off"].minimum


def _calls() -> Iterator[Call]:
    """Calls of a run, each at another noise level."""
    return (Call(float(t), (_SIDE, _SIDE), (Stream("both", 2),)) for t in cycle(range(999, 0, -1)))


def neutral_overrides(root: nn.Module) -> int:
    """Number of hooks and instance forwards that a neutral recipe adds to the model.

    Example:
        >>> neutral_overrides(UNetModel([new_block(16, 2, 8)]))
        0
    """
    before = _patches(root)
    with accelerate(root, TokenMerge(threshold=1.0)):
        return _patches(root) - before


def _patches(root: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in m.__dict__) for m in root.modules())
