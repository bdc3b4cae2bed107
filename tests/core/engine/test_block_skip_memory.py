"""Memory of block skipping: the predicted peak, the budget, offloading; and the forecast of cached values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from skipstone.core.engine.cache import BlockCache
from skipstone.core.engine.cached_value import LINE
from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.report import Report
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import even_timesteps
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.pipelines.accelerate import accelerate

STEPS = list(even_timesteps(8))


def learned(case: tiny.Case, seed: int) -> Mask:
    """A mask without any pattern."""
    family = recognise(case.model)
    graph = family.graph(case.model)
    run = np.random.default_rng(seed).random((len(STEPS), len(graph.masked))) < 0.5
    run[0] = True
    names = tuple(graph.blocks[i].name for i in graph.masked)
    return Mask(run, family.name, names, tuple(STEPS), graph.caching)


def sampled(case: tiny.Case, skip: BlockSkip) -> tuple[torch.Tensor, Report]:
    with accelerate(case.model, skip) as handle:
        handle.begin(STEPS)
        return case.sample(STEPS), handle.end()


def predicted(report: Report) -> float:
    (note,) = [n for n in report.notes if "predicted cache peak" in n]
    return float(note.rsplit(" ", 2)[1])


@pytest.mark.parametrize("seed", range(2))
def test_the_predicted_peak_is_the_one_that_is_measured(case: tiny.Case, seed: int) -> None:
    _, report = sampled(case, BlockSkip(mask=learned(case, seed)))
    assert report.cache_bytes > 0
    assert predicted(report) == pytest.approx(report.cache_bytes / 2**20, abs=0.051)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_memory_budget_is_never_exceeded(either: tiny.Case, share: float) -> None:
    mask = learned(either, 5)
    _, unbounded = sampled(either, BlockSkip(mask=mask))
    room = max(1e-6, share * unbounded.cache_bytes / 2**20)
    picture, report = sampled(either, BlockSkip(mask=mask, memory_budget=room))
    assert report.cache_bytes <= room * 2**20 < unbounded.cache_bytes
    assert any("memory budget" in n for n in report.notes)
    if share == 0.0:
        assert torch.equal(picture, either.sample(STEPS)), "no room at all: everything runs"
    else:
        assert report.cache_bytes > 0 and report.blocks_run > unbounded.blocks_run


def test_a_budget_that_suffices_changes_nothing(either: tiny.Case) -> None:
    case, mask = either, learned(either, 6)
    free, unbounded = sampled(case, BlockSkip(mask=mask))
    kept, report = sampled(case, BlockSkip(mask=mask, memory_budget=unbounded.cache_bytes / 2**20))
    assert torch.equal(free, kept) and report.blocks_run == unbounded.blocks_run
    assert not any("memory budget" in n for n in report.notes)


def test_offloading_changes_no_bit(either: tiny.Case) -> None:
    case, mask = either, learned(either, 7)
    assert torch.equal(sampled(case, BlockSkip(mask=mask))[0], sampled(case, BlockSkip(mask=mask, offload=True))[0])


def call(timestep: float) -> Call:
    return Call(timestep, (2, 2), (Stream("a", 1), Stream("b", 1)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to offload from")
def test_an_offloaded_value_waits_on_the_cpu_and_comes_back_to_its_device() -> None:
    cache = BlockCache(offload=True)
    value = torch.randn(2, 3, device="cuda")
    cache.note(call(9.0), (value,))
    cache.keep(0, call(9.0), (value,))
    (held,) = {t.device.type for h in cache._held.values() for t in h.values if t is not None}
    assert held == "cpu"
    (back,) = cache.take(call(5.0).keys(), 5.0)
    assert back is not None and torch.equal(back, value)


def test_a_forecast_continues_the_last_two_values_in_a_straight_line() -> None:
    cache = BlockCache(predictor=LINE)
    for index, t in enumerate((900.0, 600.0)):
        value = torch.tensor([[t], [2 * t]])
        cache.note(call(t), (value,))
        cache.keep(index, call(t), (value,))
        if index == 0:
            (same,) = cache.take(call(700.0).keys(), 700.0)
            assert same is not None and torch.equal(same, value), "one value alone is repeated"
    (ahead,) = cache.take(call(500.0).keys(), 500.0)
    assert ahead is not None and torch.allclose(ahead, torch.tensor([[500.0], [1000.0]]))
    assert cache.nbytes == 2 * 2 * 4
    cache.drop(call(500.0).keys())
    assert cache.nbytes == 0


def test_going_back_up_in_noise_begins_a_new_line() -> None:
    cache = BlockCache(predictor=LINE)
    for index, t in enumerate((900.0, 600.0, 800.0)):
        cache.note(call(t), (torch.tensor([[t], [t]]),))
        cache.keep(index, call(t), (torch.tensor([[t], [t]]),))
    (value,) = cache.take(call(700.0).keys(), 700.0)
    assert value is not None and torch.equal(value, torch.tensor([[800.0], [800.0]]))


def test_a_forecast_run_differs_from_a_repeating_one_from_the_second_full_call_on(either: tiny.Case) -> None:
    case = either
    repeat = BlockSkip(rule="interval", every=3, caching="output")
    line = replace(repeat, forecast=True)
    assert not torch.equal(sampled(case, repeat)[0], sampled(case, line)[0])
    short = STEPS[:4]
    with accelerate(case.model, line) as handle:
        handle.begin(short)
        few = case.sample(short)
    with accelerate(case.model, repeat) as handle:
        handle.begin(short)
        assert torch.equal(few, case.sample(short))
