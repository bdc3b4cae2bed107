"""Masks of others at a budget, and the distances by which masks are compared."""

from __future__ import annotations

import numpy as np
import pytest
from toys import Residual, Skips, toy

from skipstone.core.calibrate.masks.baselines import (
    block_changes,
    deepcache_mask,
    filled,
    interval_mask,
    spaced_calls,
    spaced_mask,
    spread_masks,
    variation_mask,
)
from skipstone.core.calibrate.masks.masked_model import running
from skipstone.core.calibrate.masks.settings import TrainSettings
from skipstone.core.errors import RecipeError
from skipstone.lab.bench.mask_peers import router_mask
from skipstone.lab.bench.mask_quality import DenseReference, closeness_of


def test_the_interval_mask_at_half_the_work_is_every_second_call() -> None:
    model = toy(calls=8)
    assert interval_mask(model, 0.5).all(axis=1).tolist() == [True, False] * 4


def test_spread_masks_run_the_last_call_whole_and_bend() -> None:
    assert spaced_calls(9, 5) == [0, 2, 4, 6, 8]
    early, late = spaced_calls(20, 8, 1.5), spaced_calls(20, 8, 1 / 1.5)
    assert (
        early[0] == late[0] == 0 and early[-1] == late[-1] == 19 and sum(early) < sum(spaced_calls(20, 8)) < sum(late)
    )
    model = toy(calls=8)
    run = spaced_mask(model, 0.5)
    assert run[0].all() and run[-1].all() and 0.3 < model.costs.share(run) <= 0.5
    with pytest.raises(RecipeError, match="two full calls need more than 20%"):
        spaced_mask(model, 0.2)
    many = spread_masks(toy(calls=20), 0.5)
    assert 5 < len(many) == len({run.tobytes() for run in many}) and spread_masks(model, 0.2) == []


def test_deepcache_takes_the_most_work_that_fits() -> None:
    model = toy(Skips(8), calls=12)
    for target in (0.4, 0.7):
        run = deepcache_mask(model, target)
        assert target - 0.2 < model.costs.share(run) <= target
    with pytest.raises(RecipeError, match="no DeepCache interval"):
        deepcache_mask(model, 0.05)


def test_a_rules_mask_takes_what_the_budget_leaves() -> None:
    model = toy(Skips(8), calls=12)
    run = deepcache_mask(model, 0.7)
    more = filled(run, model, 0.7)
    assert (running(more, model.graph) >= running(run, model.graph)).all() and 0.66 < model.costs.share(more) <= 0.7
    assert model.costs.share(more) > model.costs.share(run)


def test_changes_are_relative_to_the_call_before() -> None:
    model, seeds = toy(calls=3), [1, 2]
    changes = block_changes(model, seeds)
    at = model.denoiser.begin(seeds)
    outputs = []
    for call in range(2):
        outcome = model.dense(at, call)
        outputs.append(outcome.caches[1].values[0])
        at = model.denoiser.advance(at, outcome.output, call)
    expected = float((outputs[1] - outputs[0]).abs().sum() / outputs[0].abs().sum())
    assert changes[1, 1] == pytest.approx(expected) and (changes[0] == 0).all()


def test_the_greedy_mask_runs_what_changes_most_and_keeps_the_budget() -> None:
    model = toy(Residual(6), calls=16)
    run = variation_mask(model, 0.5, [1, 2])
    assert 0.42 < model.costs.share(run) <= 0.5 and run[0].all()
    changes = block_changes(model, [1, 2]).sum(axis=0)
    assert run[:, changes.argmax()].sum() > run[:, changes.argmin()].sum()


def test_a_router_leaves_every_second_call_full_and_cannot_go_below_half() -> None:
    model = toy(calls=8)
    settings = TrainSettings(target=0.7, passes=3, batch=2, profile_batch=1, lambda1=0.01)
    run = router_mask(model, settings)
    assert run[::2].all() and abs(model.costs.share(run) - 0.7) < 0.03
    with pytest.raises(RecipeError, match="a router needs 50%"):
        router_mask(model, TrainSettings(target=0.4, passes=1, profile_batch=1))


def test_a_mask_is_closeness_of_on_its_final_latents() -> None:
    model, seeds = toy(calls=8), [5, 6, 7]
    reference = DenseReference(model.rollout(seeds), features=lambda x: x)
    same = closeness_of(model, reference, np.ones(model.shape, dtype=bool), seeds)
    half = closeness_of(model, reference, interval_mask(model, 0.5), seeds)
    assert (same.rel_l2, same.psnr_db, same.share) == (0.0, float("inf"), 1.0) and same.frechet < 1e-9
    assert reference(reference.dense + 0.1).psnr_db == pytest.approx(20.0)
    assert half.rel_l2 >= half.typical > 0.001 and half.frechet > 0 and half.share == 0.5 and half.psnr_db < 60
