"""What a flip changes: the estimate against the flip itself; pairs of flips; moves of the search."""

from __future__ import annotations

import numpy as np
import torch
from toys import Residual, toy

from skipstone.core.calibrate.masks.exchange import exchanged, gainful_pairs
from skipstone.core.calibrate.masks.flips import flip_values
from skipstone.core.calibrate.masks.local_search import propose
from skipstone.core.calibrate.masks.losses import feature_loss
from skipstone.core.calibrate.masks.shards import Shards


class Affine(Residual):
    """Branches that do not read the state: the final latent is linear in every gate, so that the estimate's mean is exact."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x + the sum of the branches of t."""
        for node in self.nodes:
            x = x + node(torch.zeros_like(x), t)
        return x


def true_flips(model: object, run: np.ndarray, seeds: list[int]) -> np.ndarray:
    """L(run) - L(reuse) of every entry, by trying."""
    dense, found = model.rollout(seeds), np.zeros(run.shape)  # type: ignore[attr-defined]
    for s, i in np.argwhere(np.ones_like(run[1:])) + np.array([1, 0]):
        errors = []
        for bit in (True, False):
            tried = run.copy()
            tried[s, i] = bit
            errors.append(float(feature_loss(model.rollout(seeds, tried), dense)))  # type: ignore[attr-defined]
        found[s, i] = errors[0] - errors[1]
    return found


def test_the_estimate_is_the_flip_where_the_result_is_linear_in_the_gates() -> None:
    model, seeds = toy(Affine(3), calls=5), list(range(4))
    run = np.random.default_rng(0).random(model.shape) < 0.5
    run[0] = True
    estimate = flip_values(model, run, seeds, Shards(), draws=400, recompute=False).numpy()
    truth = true_flips(model, run, seeds)
    assert np.abs(truth).max() > 0.01
    np.testing.assert_allclose(estimate, truth, atol=0.12 * np.abs(truth).max())
    assert np.corrcoef(estimate[1:].ravel(), truth[1:].ravel())[0, 1] > 0.99


def test_an_estimate_that_keeps_no_activations_is_the_same() -> None:
    model, seeds = toy(Affine(3), calls=5), [1, 2]
    run = np.random.default_rng(0).random(model.shape) < 0.5
    run[0] = True
    made, estimates = [], []
    for recompute in (False, True):
        model.denoiser.calls_made = 0
        estimates.append(flip_values(model, run, seeds, Shards(), 3, recompute))
        made.append(model.denoiser.calls_made)
    torch.testing.assert_close(estimates[1], estimates[0], rtol=1e-12, atol=0)
    assert made[0] == 2 * model.calls < made[1], "the dense and the gated run; then each call again for its gradient"


class Half(Shards):
    """One of two processes; the other's values, in the order in which they are averaged, are given."""

    def __init__(self, others: list[torch.Tensor]) -> None:
        """Without them the other process has the same values."""
        super().__init__()
        self.count, self.seen, self._others = 2, [], iter(others)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Over both."""
        self.seen.append(value)
        return (value + next(self._others, value)) / 2


def test_two_processes_estimate_what_one_does() -> None:
    model = toy(Affine(3), calls=5)
    run = np.random.default_rng(0).random(model.shape) < 0.5
    run[0], other = True, Half([])
    whole = flip_values(model, run, [1, 2, 3, 4], Shards(), draws=2, recompute=False)
    flip_values(model, run, [2, 4], other, draws=2, recompute=False)
    shared = flip_values(model, run, [1, 3], Half(other.seen), draws=2, recompute=False)
    torch.testing.assert_close(shared, whole)


def test_without_curvature_the_gradient_alone_is_another_thing() -> None:
    """At a dense mask the error is 0 and so is its gradient; the flips are not."""
    model, seeds = toy(Affine(3), calls=5), [1, 2]
    run = np.ones(model.shape, dtype=bool)
    estimate = flip_values(model, run, seeds, Shards(), draws=20)
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
