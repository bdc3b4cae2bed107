"""What a flip changes: the estimate against the flip itself; pairs of flips; moves of the search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import WIDTH, Residual, toy

from skipstone.core.calibrate.masks.exchange import exchanged, gainful_pairs
from skipstone.core.calibrate.masks.flips import flip_values
from skipstone.core.calibrate.masks.losses import feature_loss, sample_losses
from skipstone.core.calibrate.masks.refine import Heat, Rehearsal, held_bytes, propose
from skipstone.core.calibrate.masks.shards import Shards


class Affine(Residual):
    """Branches that do not read the state: the final latent is linear in every gate, so that the estimate's mean is exact."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x + the sum of the branches of t."""
        for node in self.nodes:
            x = x + node(torch.zeros_like(x), t)
        return x


def true_flips(subject: object, run: np.ndarray, seeds: list[int]) -> np.ndarray:
    """L(run) - L(reuse) of every entry, by trying."""
    dense, found = subject.rollout(seeds), np.zeros(run.shape)  # type: ignore[attr-defined]
    for s, i in np.argwhere(np.ones_like(run[1:])) + np.array([1, 0]):
        errors = []
        for bit in (True, False):
            tried = run.copy()
            tried[s, i] = bit
            errors.append(float(feature_loss(subject.rollout(seeds, tried), dense)))  # type: ignore[attr-defined]
        found[s, i] = errors[0] - errors[1]
    return found


@pytest.mark.parametrize("recompute", [False, True])
def test_the_estimate_is_the_flip_where_the_result_is_linear_in_the_gates(recompute: bool) -> None:
    subject, seeds = toy(Affine(3), calls=5), list(range(4))
    run = np.random.default_rng(0).random(subject.shape) < 0.5
    run[0] = True
    estimate = flip_values(subject, run, seeds, Shards(), draws=4000 // 10, recompute=recompute).numpy()
    truth = true_flips(subject, run, seeds)
    assert np.abs(truth).max() > 0.01
    np.testing.assert_allclose(estimate, truth, atol=0.12 * np.abs(truth).max())
    assert np.corrcoef(estimate[1:].ravel(), truth[1:].ravel())[0, 1] > 0.99


def test_without_curvature_the_gradient_alone_is_another_thing() -> None:
    """At a dense mask the error is 0 and so is its gradient; the flips are not."""
    subject, seeds = toy(Affine(3), calls=5), [1, 2]
    run = np.ones(subject.shape, dtype=bool)
    estimate = flip_values(subject, run, seeds, Shards(), draws=20)
    assert (estimate[1:] < 0).all() and (estimate[0] == 0).all()


def test_pairs_give_up_the_least_worth_for_the_most_one_per_block() -> None:
    run = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
    values = -np.array([[0, 0, 0, 0], [5.0, 1.0, 7.0, 2.0], [3.0, 9.0, 4.0, 0.5]])
    assert gainful_pairs(run, values, np.ones(4)) == [((1, 1), (1, 2))]
    assert gainful_pairs(run, values, np.array([1.0, 1.0, 8.0, 1.0])) == [((1, 1), (1, 3))]
    pairs = gainful_pairs(run, -np.array([[0] * 4, [5.0, 1.0, 7.0, 9.0], [3.0, 0.1, 4.0, 0.5]]), np.ones(4))
    assert pairs == [((1, 1), (1, 3)), ((2, 0), (1, 2))]
    after = exchanged(run, pairs)
    assert after.sum() == run.sum() and not after[1, 1] and after[1, 3] and after[1, 2]
    assert run[1, 1], "the given mask is left alone"


def test_moves_keep_the_first_call_and_the_number_of_runs_and_reach_all_entries() -> None:
    rng = np.random.default_rng(0)
    run = rng.random((7, 5)) < 0.5
    run[0] = True
    touched = np.zeros_like(run)
    for turn in range(600):
        moved = propose(run, rng.random(run.shape), rng, turn)
        assert moved[0].all() and moved.sum() == run.sum()
        touched |= moved != run
    assert touched[1:].all()


def test_every_two_calls_near_each_other_change_places_in_turn() -> None:
    run = np.tril(np.ones((7, 7), dtype=bool))
    run[0], rng = True, np.random.default_rng(0)
    swapped = [propose(run, run, rng, 2 * n) for n in range(15 - 3)]
    pairs = {tuple(np.flatnonzero((moved != run).any(axis=1)).tolist()) for moved in swapped}
    assert pairs == {(a, b) for a in range(1, 7) for b in range(a + 1, min(a + 4, 7))}
    alike = np.zeros((4, 2), dtype=bool)
    assert np.array_equal(propose(alike, alike, rng, 0), alike)


def test_an_error_branched_off_a_kept_run_is_that_of_a_run_from_the_start() -> None:
    subject = toy(Residual(4), calls=8, forecast=True)
    rng = np.random.default_rng(1)
    seeds = [3, 4]
    kept, fresh = Rehearsal(subject, seeds, Shards()), Rehearsal(subject, seeds, Shards())
    run = rng.random(subject.shape) < 0.5
    run[0] = True
    kept.error(run, keep=True)
    dense = subject.rollout(seeds)
    for number in range(12):
        run = propose(run, rng.random(run.shape), rng, number)
        expected = np.exp(float(sample_losses(subject.rollout(seeds, run), dense).log().mean()))
        assert kept.error(run, keep=number % 3 == 0) == pytest.approx(expected, rel=1e-12)
        assert fresh.error(run) == pytest.approx(expected, rel=1e-12)


def test_branching_off_saves_the_calls_that_are_alike() -> None:
    subject = toy(Residual(4), calls=8)
    rehearsal = Rehearsal(subject, [1], Shards())
    run = np.ones(subject.shape, dtype=bool)
    rehearsal.error(run, keep=True)
    before, other = subject.denoiser.calls_made, run.copy()
    other[6, 2] = False
    rehearsal.error(other)
    assert subject.denoiser.calls_made - before == 2
    assert subject.denoiser.begin([1]).x.shape == (1, WIDTH)


def test_a_candidate_that_is_behind_on_the_first_quarter_costs_no_more() -> None:
    subject = toy(Residual(4), calls=8)
    rehearsal = Rehearsal(subject, list(range(8)), Shards())
    good = np.ones(subject.shape, dtype=bool)
    good[3, 1] = False
    bad = good.copy()
    bad[1:] = False
    plain = rehearsal.error(bad, keep=True)
    assert rehearsal.raced(good) == pytest.approx(rehearsal.error(good)) and rehearsal.error(good) < plain
    rehearsal.error(good, keep=True)
    before = len(subject.denoiser.begun)
    assert rehearsal.raced(bad) == np.inf
    assert [len(batch) for batch in subject.denoiser.begun[before:]] == []
    assert rehearsal.error(bad) == pytest.approx(plain, rel=1e-6)


def test_places_take_no_more_than_their_room_and_errors_stay_the_same() -> None:
    subject = toy(Residual(4), calls=16)
    rng, seeds = np.random.default_rng(2), [1, 2]
    run = rng.random(subject.shape) < 0.5
    run[0] = True
    ample, tight = Heat(subject, seeds), Heat(subject, seeds, room=1500)
    for heat in (ample, tight):
        heat.error(run, keep=True)
    sizes = [held_bytes([caches for _, caches in heat._places.values()]) for heat in (ample, tight)]
    assert sizes[0] > 1500 >= sizes[1] > 0 and len(ample._places) == 16 and len(tight._places) < 16
    for turn in range(8):
        moved = propose(run, rng.random(run.shape), rng, turn)
        assert float(tight.error(moved)) == pytest.approx(float(ample.error(moved)), rel=1e-12)
