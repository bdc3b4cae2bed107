"""How often the host waits for the device: of our own accord never at a skipped call, or where pairs are reused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from gpu import DEVICE, device_waits, moved, pipeline

from skipstone.core.engine.report import Report
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

STEPS = [900.0, 700.0, 500.0, 300.0]
MERGE = TokenMerge(threshold=0.6, bucket=1, checkpoints=(0, 2), absolute=True)
NAMES = ["ldm", "diffusers", "dit", "pixart"]


def waits_of(case: tiny.Case, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], int, Report]:
    """Waits at each call of the second of two runs, and at its end. The first run fills what is kept between runs."""
    case.model.to(DEVICE)
    x, cond = moved([case.latent(), case.cond()])
    times = moved([torch.full((2,), t) for t in STEPS])
    counts: list[int] = []
    with accelerate(case.model, recipe) as handle, torch.no_grad():
        for _ in range(2):
            counts.clear()
            handle.begin(STEPS)
            for t in times:
                counts.append(device_waits(monkeypatch, lambda t=t: case.call(case.model, x, t, cond)))
            last = device_waits(monkeypatch, handle.end)
    return counts, last, handle.report()


def dense_waits(case: tiny.Case, monkeypatch: pytest.MonkeyPatch) -> int:
    """Waits of one call without us; ldm's code copies frequencies to the device."""
    case.model.to(DEVICE)
    x, t, cond = moved([case.latent(), torch.full((2,), 900.0), case.cond()])
    with torch.no_grad():
        case.call(case.model, x, t, cond)
        return device_waits(monkeypatch, lambda: case.call(case.model, x, t, cond))


@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_call_only_reads_the_timestep(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a bare network, whose timestep is not known otherwise. The compared forecasts are read at once, when the run ends."""
    case = tiny.BUILDERS[name]()
    dense = dense_waits(case, monkeypatch)
    counts, last, report = waits_of(case, CallSkip(every=2, space="raw"), monkeypatch)
    assert (counts, last) == ([1 + dense, 1, 1 + dense, 1 + dense], 1)
    assert report.calls_forecast == 1 and list(report.compared) == [2]


@pytest.mark.parametrize("rule", ["easycache", "seacache"])
def test_a_gate_waits_once_more_per_call(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline("text_to_image")
    dense = device_waits(monkeypatch, lambda: pipe(10))
    for threshold in (10.0, 1e-6):  # skips what it can, and nothing
        with accelerate(pipe.pipe, CallSkip(rule=rule, threshold=threshold)) as handle:
            pipe(10)
            found = device_waits(monkeypatch, lambda: pipe(10))
            report = handle.report()
        assert (report.calls_forecast > 0) is (threshold > 1) and not report.declined
        assert 0 < found - dense <= 1 + report.calls + bool(report.compared), report.lines()


@pytest.mark.parametrize(
    "recipe", [BlockSkip(rule="interval", every=2), BlockSkip(rule="interval", every=2, forecast=True)]
)
@pytest.mark.parametrize("name", NAMES)
def test_masks_never_wait(name: str, recipe: BlockSkip, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny.BUILDERS[name]()
    dense = dense_waits(case, monkeypatch)
    counts, last, report = waits_of(case, recipe, monkeypatch)
    assert report.blocks_reused > 0 and last == 0
    assert all(count <= 1 + dense for count in counts), "one for the timestep, and no more of the network than it has"


@pytest.mark.parametrize("name", NAMES)
def test_merging_waits_once_per_layer_where_pairs_are_searched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny.BUILDERS[name]()
    dense = dense_waits(case, monkeypatch)
    counts, last, report = waits_of(case, MERGE, monkeypatch)
    assert report.served > 0
    searching, reusing = 1 + dense + report.served, 1 + dense
    assert (counts, last) == ([searching, reusing, searching, reusing], 0)


@pytest.mark.parametrize("name", NAMES)
def test_pruning_never_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counts are known ahead."""
    case = tiny.BUILDERS[name]()
    dense = dense_waits(case, monkeypatch)
    counts, last, report = waits_of(case, TokenPrune(ratio=0.5, checkpoints=(0, 2)), monkeypatch)
    assert report.merged_share > 0.1 and (counts, last) == ([1 + dense] * 4, 0)


SCHEDULED = ["text_to_image", "image_to_image", "sdxl", "pixart_alpha", "sd3", "wan"]
"""Pipelines that give their network views of the schedule, whose place needs no reading."""
READ = ["flux", "qwen_image", "z_image"]
"""Those that compute with the timestep first: it is read at each forward."""


@pytest.mark.parametrize("name", [*SCHEDULED, *READ])
def test_a_pipeline_waits_for_its_schedule_and_the_compared_forecasts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = pipeline(name)
    running()
    dense = device_waits(monkeypatch, running)
    with accelerate(running.pipe, CallSkip(every=2)) as handle:
        running()
        found = device_waits(monkeypatch, running)
        report = handle.report()
    own = 1 + bool(report.compared) + (report.calls * running.forwards if name in READ else 0)
    assert found <= dense + own, "skipped calls leave the network's own waits out"
    assert report.calls_forecast > 0
