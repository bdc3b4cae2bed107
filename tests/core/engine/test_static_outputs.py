"""Networks that return the same memory at each call, as replayed CUDA graphs do: what is kept of an output is a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.forecast.names import PREDICTOR_NAMES
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

STEPS = 10


def static(module: nn.Module) -> None:
    """Make a module write its output over that of its last call, which is spoilt before: nothing may still read it."""
    forward, kept = module.forward, []

    def same(value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.clone()
            if kept and kept[0].shape == value.shape:
                value = kept[0].copy_(value)
            kept[:] = [value]
            return value
        if isinstance(value, tuple):
            return (same(value[0]), *value[1:])
        value.sample = same(value.sample)
        return value

    def replayed(*args: Any, **kwargs: Any) -> Any:
        for buffer in kept:
            buffer.fill_(float("nan"))
        return same(forward(*args, **kwargs))

    module.forward = replayed


def drawn(recipe: Any, change: Callable[[nn.Module], Any]) -> Tensor:
    pipe = tiny.sd_pipeline()
    change(pipe.unet)
    with accelerate(pipe, recipe) as handle:
        picture = tiny.run_sd(pipe, STEPS)
        assert not handle.report().idle
    return picture


CALLS = [CallSkip(every=2, predictor=name) for name in PREDICTOR_NAMES]
SPACES = [CallSkip(every=3, space=space, predictor="hold") for space in ("raw", "x0", "difference")]
GATES = [CallSkip(rule="easycache", threshold=0.5), CallSkip(rule="seacache", threshold=0.5)]


@pytest.mark.parametrize("recipe", [*CALLS, *SPACES, *GATES, TokenPrune(ratio=0.5, checkpoints=(0, 3))], ids=str)
def test_a_networks_output_is_read_before_its_next_call(recipe: Any) -> None:
    assert torch.equal(drawn(recipe, static), drawn(recipe, lambda network: None))


@pytest.mark.parametrize("forecast", [False, True])
def test_outputs_of_blocks_are_read_before_their_next_call(forecast: bool) -> None:
    def blocks(network: nn.Module) -> None:
        for module in network.modules():
            if type(module).__name__ in ("Transformer2DModel", "ResnetBlock2D"):
                static(module)

    recipe = BlockSkip(rule="interval", every=3, forecast=forecast)
    assert torch.equal(drawn(recipe, blocks), drawn(recipe, lambda network: None))
