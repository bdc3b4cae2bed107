"""Models that wait elsewhere between runs: diffusers removes accelerate's hooks after each picture, and adds them again."""

from __future__ import annotations

from functools import wraps
from typing import Any

import pytest
import tiny
import torch

from skipstone.core.engine.override import override_in
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.pipelines.accelerate import accelerate

CALLS, BLOCKS = CallSkip(every=2), BlockSkip(rule="interval", every=2)


@pytest.mark.parametrize("recipe", [CALLS, BLOCKS, Recipe.of([CALLS, BLOCKS])], ids=["calls", "blocks", "both"])
@pytest.mark.parametrize("accelerated_first", [False, True])
def test_every_picture_of_an_offloaded_pipeline_is_accelerated(accelerated_first: bool, recipe: Recipe) -> None:
    pipe = tiny.sd_pipeline()
    dense = tiny.run_sd(pipe)
    with accelerate(pipe, recipe):
        wanted = tiny.run_sd(pipe)
    if not accelerated_first:
        pipe.enable_model_cpu_offload(device="cpu")
    with accelerate(pipe, recipe) as handle:
        if accelerated_first:
            pipe.enable_model_cpu_offload(device="cpu")
        for _ in range(3):
            assert torch.equal(tiny.run_sd(pipe), wanted)
            report = handle.report()
            assert report.calls == 6 and not report.idle and not report.declined
    assert torch.equal(tiny.run_sd(pipe), dense), "removed, it is the pipeline's own picture"
    pipe.remove_all_hooks()
    assert torch.equal(tiny.run_sd(pipe), dense)
    assert accelerated_first or override_in(pipe.unet) is None, (
        "under another tool's wrapper it stays, and does nothing"
    )


@pytest.mark.parametrize("named", [False, True], ids=["plain", "functools.wraps"])
def test_under_another_tools_wrapper_nothing_is_installed_twice(named: bool) -> None:
    pipe, seen = tiny.sd_pipeline(), list[int]()
    with accelerate(pipe, CALLS) as handle:
        wanted, inner = tiny.run_sd(pipe), pipe.unet.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            seen.append(1)
            return inner(*args, **kwargs)

        pipe.unet.forward = wraps(inner)(forward) if named else forward
        for _ in range(2):
            assert torch.equal(tiny.run_sd(pipe), wanted)
            assert handle.report().calls == 6 and not handle.report().declined
    assert len(seen) == 12
