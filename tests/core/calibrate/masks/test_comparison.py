"""Masks compared by the reported figure: what a comparison costs, and when a move holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import WIDTH, Residual, toy

from skipstone.core.calibrate.masks.comparison import Comparison, Noises, held_bytes
from skipstone.core.calibrate.masks.local_search import propose
from skipstone.core.calibrate.masks.masked_model import MaskedModel
from skipstone.core.calibrate.masks.shards import Shards
from skipstone.core.measure.fidelity import relative_errors
from skipstone.lab.bench.mask_quality import DenseReference


def test_errors_branched_off_a_kept_run_are_those_of_a_run_from_the_start() -> None:
    model = toy(Residual(4), calls=8, forecast=True)
    rng, seeds = np.random.default_rng(1), [3, 4]
    kept, fresh = Noises(model, seeds), Noises(model, seeds)
    run = rng.random(model.shape) < 0.5
    run[0] = True
    kept.errors(run, keep=True)
    dense = model.rollout(seeds)
    for number in range(12):
        run = propose(run, rng.random(run.shape), rng, number)
        expected = relative_errors(model.rollout(seeds, run), dense)
        torch.testing.assert_close(kept.errors(run, keep=number % 3 == 0), expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(fresh.errors(run), expected, rtol=1e-12, atol=0)


def test_branching_off_saves_the_calls_that_are_alike() -> None:
    model = toy(Residual(4), calls=8)
    noises = Noises(model, [1])
    run = np.ones(model.shape, dtype=bool)
    noises.errors(run, keep=True)
    before, other = model.denoiser.calls_made, run.copy()
    other[6, 2] = False
    noises.errors(other)
    assert model.denoiser.calls_made - before == 2
    assert model.denoiser.begin([1]).x.shape == (1, WIDTH)


def good_and_bad(model: MaskedModel) -> tuple[np.ndarray, np.ndarray]:
    """A mask that gives up one run, and one that gives up all but the first call."""
    good = np.ones(model.shape, dtype=bool)
    good[3, 1] = False
    bad = good.copy()
    bad[1:] = False
    return good, bad


def test_a_candidate_that_is_behind_on_the_first_quarter_costs_no_more() -> None:
    model = toy(Residual(4), calls=8)
    comparison = Comparison(model, list(range(8)), list(range(8, 16)), Shards())
    good, bad = good_and_bad(model)
    comparison.keep(bad)
    plain = comparison.error
    assert comparison.better(good) and not comparison.better(bad)
    comparison.keep(good)
    assert comparison.error == pytest.approx(comparison.held_out(good)) and comparison.error < plain
    made = model.denoiser.calls_made
    assert not comparison.better(bad)
    assert model.denoiser.calls_made - made == 8 - 1
    assert comparison.held_out(bad) == pytest.approx(plain, rel=1e-6)


def test_the_error_is_the_figure_that_is_reported() -> None:
    model, held_out = toy(Residual(4), calls=8), [11, 12, 13]
    comparison = Comparison(model, [1, 2], held_out, Shards())
    _, bad = good_and_bad(model)
    comparison.keep(bad)
    dense, masked = model.rollout(held_out), model.rollout(held_out, bad)
    reported = DenseReference(dense)(masked).rel_l2
    by_hand = np.mean([float((m - d).norm() / d.norm()) for m, d in zip(masked, dense, strict=True)])
    assert comparison.error == pytest.approx(reported, rel=1e-12) == pytest.approx(by_hand, rel=1e-6)


class Told(Noises):
    """Errors as they are set down, by the number of runs in a mask."""

    def __init__(self, errors: dict[int, list[float]]) -> None:
        self._told = errors

    def errors(self, run: np.ndarray, keep: bool = False) -> torch.Tensor:
        """Of the mask."""
        return torch.tensor(self._told[int(run.sum())], dtype=torch.float64)


@pytest.mark.parametrize(
    ("finding", "held_out", "better"),
    [
        ([0.4, 0.5, 0.6, 0.5], [0.6, 0.5, 0.7, 0.6], True),
        ([0.4, 0.5, 0.6, 0.5], [0.8, 0.8, 0.7, 0.9], False),  # fits the noises that it was found on
        ([0.9, 0.9, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1], False),  # not found
        ([0.4, 0.5, 0.6, 0.5], [0.81, 0.8, 0.81, 0.1], False),  # one noise that turned back; the others lose
        ([0.9, 0.9, 0.9, 0.1], [0.7, 0.7, 0.6, 0.7], True),  # of the noises it is found on, one may be enough
    ],
)
def test_a_move_must_hold_on_noises_that_it_was_not_found_on(
    finding: list[float], held_out: list[float], better: bool
) -> None:
    kept, other = np.ones((2, 2), dtype=bool), np.array([[True, True], [True, False]])
    comparison = Comparison(toy(), [1, 2, 3, 4], [5, 6, 7, 8], Shards())
    comparison.__dict__["_finding"] = [Told({4: [0.8] * 4, 3: finding})]
    comparison.__dict__["_held_out"] = [Told({4: [0.8] * 4, 3: held_out})]
    comparison.keep(kept)
    assert comparison.better(other) == better


def test_places_take_no_more_than_their_room_and_errors_stay_the_same() -> None:
    model = toy(Residual(4), calls=16)
    rng, seeds = np.random.default_rng(2), [1, 2]
    run = rng.random(model.shape) < 0.5
    run[0] = True
    ample, tight = Noises(model, seeds), Noises(model, seeds, room=1500)
    for noises in (ample, tight):
        noises.errors(run, keep=True)
    sizes = [held_bytes([caches for _, caches in noises._places.values()]) for noises in (ample, tight)]
    assert sizes[0] > 1500 >= sizes[1] > 0 and len(ample._places) == 16 and len(tight._places) < 16
    for turn in range(8):
        moved = propose(run, rng.random(run.shape), rng, turn)
        torch.testing.assert_close(tight.errors(moved), ample.errors(moved), rtol=1e-12, atol=0)
