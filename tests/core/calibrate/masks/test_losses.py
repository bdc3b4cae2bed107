"""Loss terms, probabilities and budget against numbers worked out by hand (methods page, block masking 8, 9, 10, 17)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import Chain, Residual, Skips, toy

from skipstone.core.calibrate.masks.baselines import even_calls, interval_scores
from skipstone.core.calibrate.masks.costs import MARGIN, measure_costs, to_budget
from skipstone.core.calibrate.masks.gates import Gates
from skipstone.core.calibrate.masks.learner import Learner
from skipstone.core.calibrate.masks.losses import bimodal, feature_loss, loss_weights, sparsity, variation
from skipstone.core.calibrate.masks.settings import TrainSettings
from skipstone.core.calibrate.masks.shards import Shards
from skipstone.core.errors import RecipeError
from skipstone.core.plan.liveness import State, liveness


def test_feature_loss_is_the_squared_distance_over_the_squared_size_per_sample() -> None:
    dense = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    assert float(feature_loss(dense + torch.tensor([[5.0, 0.0], [0.0, 2.0]]), dense)) == pytest.approx((1 + 4) / 2)
    assert float(feature_loss(dense, dense)) == 0.0


@pytest.mark.parametrize(
    ("p", "r1", "r2", "slope"), [(0.0, 0.0, 0.0, 1.0), (0.5, 0.5, 0.25, 0.0), (1.0, 1.0, 0.0, -1.0)]
)
def test_regularisers_and_their_slopes(p: float, r1: float, r2: float, slope: float) -> None:
    values = torch.full((4,), p, requires_grad=True)
    ones = torch.ones(4)
    assert sparsity(values, ones).item() == r1 and bimodal(values).item() == r2
    (grad,) = torch.autograd.grad(bimodal(values), values)
    torch.testing.assert_close(grad, torch.full((4,), slope / 4))
    (grad,) = torch.autograd.grad(sparsity(values, ones), values)
    torch.testing.assert_close(grad, torch.full((4,), 0.25))


def test_costs_weigh_the_sparsity_term() -> None:
    assert float(sparsity(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0]))) == 0.75


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_regularisers_never_push_a_probability_up_while_lambda2_is_at_most_lambda1(p: float, ratio: float) -> None:
    value = torch.tensor([p], requires_grad=True)
    (grad,) = torch.autograd.grad(sparsity(value, torch.ones(1)) + ratio * bimodal(value), value)
    assert float(grad) >= -1e-6


def test_variation_is_relative_to_the_call_before() -> None:
    before = torch.tensor([[1.0, -3.0], [2.0, 2.0]])
    now = before + torch.tensor([[1.0, -1.0], [0.0, 4.0]])
    assert float(variation(now, before)) == pytest.approx((2 / 4 + 4 / 4) / 2)


def test_weights_are_low_where_features_vary_and_high_where_they_are_smooth() -> None:
    v = torch.tensor([torch.inf, 0.9, 0.1, 0.5])
    assert loss_weights(v, 0.5, 1.5).tolist() == [0.5, 0.5, 1.5, 1.5]
    assert loss_weights(v, 0.5, 1.5, threshold=0.05).tolist() == [0.5] * 4


@pytest.mark.parametrize("sampling", ["bernoulli", "gumbel"])
@pytest.mark.parametrize("p", [0.2, 0.7])
def test_gates_are_zeros_and_ones_as_often_as_p_says(sampling: str, p: float) -> None:
    gates = Gates(torch.full((2, 20000), p), sampling)  # type: ignore[arg-type]
    row = gates.draw(1)
    assert set(row.gates.detach().round(decimals=6).tolist()) == {0.0, 1.0}
    assert abs(float(row.gates.detach().mean()) - p) < 0.015
    assert np.array_equal(row.runs, row.gates.detach().numpy() > 0.5)


def test_a_bernoulli_gate_passes_its_gradient_straight_through_and_a_gumbel_gate_does_not() -> None:
    for sampling, straight in (("bernoulli", True), ("gumbel", False), ("mean", True)):
        gates = Gates(torch.full((2, 8), 0.4), sampling)  # type: ignore[arg-type]
        weights = torch.arange(8.0)
        (gates.draw(1).gates * weights).sum().backward()
        assert torch.equal(gates.rows[1].grad, weights) == straight


def test_one_number_decides_on_a_row_and_its_gradient_is_the_effect_of_a_quadratic_loss() -> None:
    gates, drawn = Gates(torch.full((2, 3), 0.9), "row"), []
    for _ in range(4000):
        row = gates.draw(1)
        drawn.append(bool(row.runs.all()))
        assert drawn[-1] or not row.runs.any()
        (3 * row.gates - 1).square().sum().backward()
    assert np.mean(drawn) == pytest.approx(0.9, abs=0.02)
    effect = (3 * 1 - 1) ** 2 - (3 * 0 - 1) ** 2  # plain straight-through would give 0.9 * 12 - 0.1 * 6
    assert (gates.rows[1].grad / 4000).tolist() == pytest.approx([effect] * 3, abs=0.3)


def test_gates_touch_no_global_randomness_and_repeat_with_their_seed() -> None:
    state = torch.get_rng_state()
    one, two = (Gates(torch.full((3, 50), 0.5), seed=7) for _ in range(2))
    assert np.array_equal(one.draw(1).runs, two.draw(1).runs)
    assert not np.array_equal(one.draw(1).runs, Gates(torch.full((3, 50), 0.5), seed=8).draw(1).runs)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_first_call_is_all_ones_whatever_is_assigned() -> None:
    gates = Gates(torch.zeros(3, 4))
    gates.assign(torch.tensor([-1.0, 0.5, 2.0])[:, None].expand(3, 4))
    assert gates.values.tolist() == [[1.0] * 4, [0.5] * 4, [1.0] * 4]
    assert gates.draw(0).gates is None and gates.draw(0).runs.all()


@pytest.mark.parametrize("kind", [Chain, Skips])
@pytest.mark.parametrize("target", [0.35, 0.5, 0.7])
def test_a_cut_at_the_budget_counts_what_liveness_leaves(kind: type[Chain], target: float) -> None:
    model = toy(kind(10), calls=24, costs=[1, 2, 1, 1, 3, 1, 1, 2, 1, 1])
    scores = np.random.default_rng(0).random(model.shape)
    run = to_budget(scores, target, model.costs)
    running = liveness(run, model.graph) == State.RUN
    share = float((running * model.costs.blocks).sum()) / (24 * 14)
    assert model.costs.share(run) == pytest.approx(share)
    assert target - MARGIN <= share <= target
    assert np.array_equal(running[1:], run[1:])


def test_without_liveness_the_highest_scores_run() -> None:
    model = toy(Residual(5), calls=9)
    scores = np.random.default_rng(1).random(model.shape)
    run = to_budget(scores, 0.6, model.costs)
    assert run.mean() == 0.6 and scores[1:][run[1:]].min() > scores[1:][~run[1:]].max()


def test_a_budget_below_what_always_runs_is_refused() -> None:
    model = toy(calls=4)
    with pytest.raises(RecipeError, match="25% of the multiply-adds run whatever the mask"):
        to_budget(np.zeros(model.shape), 0.1, model.costs)


def test_costs_of_a_call_are_those_of_its_layers() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2), torch.nn.Linear(2, 2))
    from skipstone.core.models.graph import Block, GraphBuilder

    builder = GraphBuilder("output")
    builder.add(Block("0", "block", net[0], 0))
    builder.add(Block("1", "sample", net[1], 0, derived=True))
    costs = measure_costs(builder.build(), net, lambda: net(torch.zeros(4, 3)))
    assert costs.blocks.tolist() == [60.0, 40.0] and costs.rest == 16.0
    assert costs.masked.tolist() == [60 / 116]
    assert costs.expected(np.array([[1.0], [0.5]])) == pytest.approx(1 - 0.25 * 60 / 116)


def test_the_interval_start_has_evenly_spread_full_calls() -> None:
    assert even_calls(10, 5) == [0, 2, 4, 6, 8] and even_calls(6, 4) == [0, 1, 3, 4]
    model = toy(calls=10)
    run = to_budget(interval_scores(model.shape, model.costs, 0.5), 0.5, model.costs)
    assert np.flatnonzero(run.all(axis=1)).tolist() == [0, 2, 4, 6, 8] and run.mean() == 0.5


def learner(control: str, p: float, target: float, passes: int = 9, **more: object) -> Learner:
    """On a chain of ten calls and four equal blocks."""
    model = toy(calls=10)
    settings = TrainSettings(control=control, target=target, passes=passes, **more)  # type: ignore[arg-type]
    weights = torch.where(torch.arange(10) % 2 > 0, 0.5, 1.5)
    return Learner(Gates(torch.full(model.shape, p)), settings, model.costs, weights, Shards())


def test_projection_reaches_the_budget_over_the_first_third_and_presses_harder_where_weights_are_high() -> None:
    made = learner("project", 0.9, 0.5)
    shares = []
    for _ in range(4):
        made.end_pass()
        shares.append(made.expected())
    assert shares == pytest.approx([0.91 - 0.41 / 3, 0.91 - 0.82 / 3, 0.5, 0.5], abs=1e-4)
    values = made.gates.values
    assert values[0].eq(1).all() and (values[1] > values[2]).all()


def test_the_dual_weight_rises_while_the_share_is_too_high_and_falls_when_too_low() -> None:
    high, low = learner("dual", 0.9, 0.5, 0), learner("dual", 0.2, 0.5, 0)
    for made in (high, low):
        made.end_pass()
    assert high.lambda1 > TrainSettings().lambda1 > low.lambda1


def test_the_dual_weight_goes_on_rising_while_the_share_stays_too_high() -> None:
    """The damping term is zero then: what is left is the ascent itself, half the excess a pass."""
    made = learner("dual", 0.9, 0.5, 0)
    made.end_pass()
    weight, excess = made.lambda1, made.excess
    made.end_pass()
    assert made.excess == excess == pytest.approx(0.41)
    assert made.lambda1 / weight == pytest.approx(np.exp(0.5 * excess))


def test_the_bimodal_term_pushes_probabilities_apart() -> None:
    """Equal but for lambda2, so that the sparsity term cannot stand in for it."""
    without, with_it = (learner("fixed", 0.5, 0.5, lambda1=0.2, lambda2_ratio=ratio) for ratio in (0.0, 1.0))
    for made in (without, with_it):
        made.done = 9
        made.gates.rows[2].data.copy_(torch.tensor([0.1, 0.4, 0.6, 0.9]))
    difference = with_it.regulariser(2) - without.regulariser(2)
    assert difference.item() == pytest.approx(1.5 * 0.2 * (0.09 + 0.24 + 0.24 + 0.09) / 4)
    difference.backward()
    slopes = with_it.gates.rows[2].grad + without.gates.rows[2].grad
    assert slopes.sign().tolist() == [1.0, 1.0, -1.0, -1.0]


def test_the_bimodal_weight_is_ramped_over_the_first_third() -> None:
    made = learner("fixed", 0.9, 0.5, lambda1=0.3, lambda2_ratio=0.5)
    seen = []
    for _ in range(4):
        seen.append(made.lambda2)
        made.done += 1
    assert seen == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_a_step_is_adams_on_the_rows_of_the_loss_alone() -> None:
    """Adam's first step has the size of the learning rate whatever the gradient's."""
    made = learner("fixed", 0.5, 0.5, lr=0.125, lambda1=0.0)
    row = made.gates.rows[3]
    made.step((row * torch.tensor([4.0, -0.5, 0.0, 1.0])).sum(), [3])
    torch.testing.assert_close(row.detach(), torch.tensor([0.375, 0.625, 0.5, 0.375]))
    assert made.gates.values[[1, 2, 4]].eq(0.5).all() and row.grad is None


def test_steps_that_are_projected_keep_the_ratios_of_the_gradients() -> None:
    """The median of |1|, |0.5|, |0.25|, |40| (torch takes the lower one) is the scale, three steps the most."""
    made = learner("project", 0.5, 0.5, lr=0.1)
    row = made.gates.rows[3]
    made.step((row * torch.tensor([1.0, -0.5, 0.25, 40.0])).sum(), [3])
    torch.testing.assert_close(row.detach(), torch.tensor([0.3, 0.6, 0.45, 0.2]))
    assert made.gates.values[[1, 2, 4]].eq(0.5).all()


def test_a_fixed_lambda_adds_the_weighted_regularisers() -> None:
    made = learner("fixed", 0.5, 0.5, lambda1=0.2, lambda2_ratio=0.0)
    assert float(made.regulariser(2)) == pytest.approx(1.5 * 0.2 * 0.5)
    assert float(made.regulariser(3)) == pytest.approx(0.5 * 0.2 * 0.5)


def test_among_equal_probabilities_those_that_lower_the_loss_most_are_kept() -> None:
    made = learner("project", 0.5, 0.5, lr=1e-9)
    made.step((made.gates.rows[3] * torch.tensor([4.0, -0.5, 0.0, 1.0])).sum(), [3])
    assert np.argsort(-made.scores()[3]).tolist() == [1, 2, 3, 0]
