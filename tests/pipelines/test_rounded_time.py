"""Networks in half precision are given rounded times, once or twice over: each forward is still the schedule's own call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from gpu import pipeline
from torch import Tensor

from skipstone.core.recipe.auto import Auto
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.schedule import _ROUNDED
from skipstone.pipelines.time_unit import UNITS, place_of

WAYS: dict[str, tuple[Callable[[Tensor, torch.dtype], Tensor], int]] = {
    "rounded, then divided": (lambda t, dtype: t.to(dtype) / 1000, 1),
    "divided, then rounded": (lambda t, dtype: (t / 1000).to(dtype), 1),
    "as it is": (lambda t, dtype: t.to(dtype), 0),
    "rising": (lambda t, dtype: ((1000 - t.to(dtype)) / 1000).to(dtype), 2),
}
"""How pipelines give their networks the time, and the unit that it is in."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_a_scheduler_that_counts_is_believed(way: str, dtype: torch.dtype, shift: float) -> None:
    given, unit = WAYS[way]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    for steps in (9, 20, 28, 50, 100):
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        for place, t in enumerate(scheduler.timesteps):
            argument = float(given(t, dtype))
            assert place_of(argument, (UNITS[unit],), timesteps, place, _ROUNDED * 1000) == (place, UNITS[unit])


def test_a_time_far_from_where_the_scheduler_stands_is_another_call() -> None:
    timesteps = [1000.0 - 20 * k for k in range(50)]
    assert place_of(600.0, UNITS[:1], timesteps, expected=3, slack=5.0) == (20, UNITS[0])
    assert place_of(609.0, UNITS[:1], timesteps, expected=3, slack=5.0) is None
    assert place_of(1000.0, UNITS[:1], timesteps, expected=50, slack=5.0) == (0, UNITS[0])


@pytest.mark.parametrize("name", ["flux", "chroma", "qwen_image", "z_image"])
def test_a_run_in_bf16_is_one_run(name: str) -> None:
    steps, running = 28, pipeline(name, "cpu", torch.bfloat16)
    with accelerate(running.pipe, Auto(2.0)) as handle:
        running(steps)
        report = handle.report()
    assert (report.calls, report.calls_run, report.planned) == (steps, steps // 2, True)
