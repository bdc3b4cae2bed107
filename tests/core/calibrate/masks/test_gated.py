"""Gates on a real network: what a call computes, and what its backward pass says (methods page, block masking 1, 7, 12, 14)."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from toys import WIDTH, Chain, Node, Residual, Skips, toy

from skipstone.core.calibrate.denoiser import Trajectory
from skipstone.core.calibrate.masks.gated import CallGates, GatedNetwork, detached, frozen
from skipstone.core.calibrate.masks.gates import Gates
from skipstone.core.calibrate.masks.masked_model import MaskedModel
from skipstone.core.models import recognise

NETWORKS = [Chain, Residual, Skips]


def gates(model: MaskedModel, p: float = 0.5, sampling: str = "bernoulli", seed: int = 0) -> Gates:
    """Probabilities that are `p` everywhere, in double precision."""
    made = Gates(torch.full(model.shape, p), sampling, seed)  # type: ignore[arg-type]
    made.rows = [torch.nn.Parameter(row.detach().double()) for row in made.rows]
    return made


def first_call(model: MaskedModel, seeds: tuple[int, ...] = (1, 2)) -> tuple[Trajectory, object]:
    """The place before call 1 and the caches of call 0."""
    at = model.denoiser.begin(seeds)
    with torch.no_grad():
        outcome = model.dense(at, 0)
    return model.denoiser.advance(at, outcome.output, 0), outcome.caches


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("forecast", [False, True])
def test_all_gates_open_is_the_dense_network_bit_by_bit(kind: type[Chain], forecast: bool) -> None:
    model = toy(kind(), forecast=forecast)
    at = model.denoiser.begin([3, 4])
    caches = None
    for call in range(model.calls):
        row = gates(model).fixed(call, np.ones(4, dtype=bool))
        outcome = model.masked(at, call, row, caches)
        assert torch.equal(outcome.output, model.denoiser.predict(at, call))
        at, caches = model.denoiser.advance(at, outcome.output.detach(), call), detached(outcome.caches)


@pytest.mark.parametrize("kind", NETWORKS)
def test_hard_gates_with_and_without_gradients_give_the_same_bits(kind: type[Chain]) -> None:
    model = toy(kind())
    at, caches = first_call(model)
    runs = np.array([True, False, True, False])
    with_gradients = model.masked(at, 1, gates(model).fixed(1, runs), caches)
    assert torch.equal(with_gradients.output, model.masked(at, 1, CallGates(runs), caches).output)


def test_a_row_of_zeros_repeats_the_last_block_where_outputs_are_cached() -> None:
    model = toy(Skips())
    at, caches = first_call(model)
    outcome = model.masked(at, 1, CallGates(np.zeros(4, dtype=bool)), caches)
    assert torch.equal(outcome.output, caches[-1].values[0])


def test_blocks_that_are_reused_without_gradients_are_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    model, entered = toy(), []
    at, caches = first_call(model)
    inner = Node.forward
    monkeypatch.setattr(Node, "forward", lambda self, x, t: (entered.append(self), inner(self, x, t))[1])
    model.masked(at, 1, CallGates(np.array([True, False, False, True])), caches)
    assert entered == [model.denoiser.network.nodes[0], model.denoiser.network.nodes[3]]


def by_hand(model: MaskedModel, at: Trajectory, caches: object, call: int, b: torch.Tensor) -> torch.Tensor:
    """Eq. 3 on the residual toy, written out: x += b f + (1 - b) cache, with b as ordinary numbers."""
    x, t = at.x, torch.tensor(model.denoiser.timesteps[call], dtype=torch.float64)
    for number, node in enumerate(model.denoiser.network.nodes):
        x = x + b[number] * node(x, t) + (1 - b[number]) * caches[number].values[0]  # type: ignore[index]
    return x


def test_mixing_weights_and_their_gradients_are_those_of_the_formula() -> None:
    model = toy()
    at, caches = first_call(model)
    soft = gates(model, 0.3, "mean")
    outcome = model.masked(at, 1, soft.draw(1), caches)
    b = torch.full((4,), 0.3, dtype=torch.float64, requires_grad=True)
    expected = by_hand(model, at, caches, 1, b)
    torch.testing.assert_close(outcome.output, expected)
    outcome.output.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(soft.rows[1].grad, b.grad)


def test_straight_through_gradient_is_the_inner_product_with_fresh_minus_cached() -> None:
    """For each gate <dL/dF, f - cache>, dL/dF taken through the values that were chosen."""
    model = toy()
    at, caches = first_call(model)
    hard, learned = np.array([True, False, True, False]), gates(model)
    outcome = model.masked(at, 1, learned.fixed(1, hard), caches)
    outcome.output.pow(3).sum().backward()

    x, t = at.x, torch.tensor(model.denoiser.timesteps[1], dtype=torch.float64)
    values, gains = [], []
    for number, node in enumerate(model.denoiser.network.nodes):
        fresh, cached = node(x, t), caches[number].values[0]
        value = (fresh if hard[number] else cached).clone()
        value = value.requires_grad_() if not value.requires_grad else value
        if value.requires_grad and not value.is_leaf:
            value.retain_grad()
        values.append(value)
        gains.append((fresh - cached).detach())
        x = x + value
    x.pow(3).sum().backward()
    expected = torch.stack([(v.grad * g).sum() for v, g in zip(values, gains, strict=True)])
    torch.testing.assert_close(learned.rows[1].grad, expected)


def test_only_the_row_in_use_gets_gradients_and_caches_carry_none() -> None:
    model, learned = toy(), None
    at, caches = first_call(model)
    learned = gates(model)
    outcome = model.masked(at, 1, learned.draw(1), caches)
    kept = detached(outcome.caches)
    second = model.masked(model.denoiser.advance(at, outcome.output.detach(), 1), 2, learned.draw(2), kept)
    second.output.sum().backward()
    assert learned.rows[2].grad is not None
    assert all(row.grad is None for s, row in enumerate(learned.rows) if s != 2)
    assert not any(v.requires_grad for held in kept for v in held.values)


def test_together_a_later_loss_reaches_the_gate_that_filled_the_cache() -> None:
    """A block reused at call 2 hands on what call 1 stored: call 1's gate hears of it."""
    model = toy()
    at, caches = first_call(model)
    learned, none = gates(model), np.zeros(4, dtype=bool)
    one = model.masked(at, 1, learned.fixed(1, none), caches)
    there = model.denoiser.advance(at, one.output.detach(), 1)
    model.masked(there, 2, learned.fixed(2, none), one.caches).output.sum().backward()
    t = torch.tensor(model.denoiser.timesteps[1], dtype=torch.float64)
    x, gains = at.x, []
    for number, node in enumerate(model.denoiser.network.nodes):
        gains.append((node(x, t) - caches[number].values[0]).sum())
        x = x + caches[number].values[0]
    torch.testing.assert_close(learned.rows[1].grad, torch.stack(gains))


@pytest.mark.parametrize("how", ["block", "call"])
def test_checkpointing_changes_neither_values_nor_gradients(how: str) -> None:
    plain, other = toy(Skips()), toy(Skips(), checkpointing=how == "block")
    found = []
    for model in (plain, other):
        at, caches = first_call(model)
        learned = gates(model)
        evaluate = model.recomputed if (model is other and how == "call") else model.masked
        one = evaluate(at, 1, learned.draw(1), caches)
        two = evaluate(model.denoiser.advance(at, one.output, 1), 2, learned.draw(2), one.caches)
        two.output.square().sum().backward()
        found.append((two.output.detach(), learned.rows[1].grad, learned.rows[2].grad))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert found[0][1].abs().sum() > 0


def test_a_forecast_continues_the_last_two_values_in_a_straight_line() -> None:
    model = toy(forecast=True)
    ones, none = np.ones(4, dtype=bool), np.zeros(4, dtype=bool)
    at, caches = first_call(model)
    one = model.masked(at, 1, CallGates(ones), caches)
    at = model.denoiser.advance(at, one.output, 1)
    output = model.masked(at, 2, CallGates(none), one.caches).output
    line = [2 * new.values[0] - old.values[0] for new, old in zip(one.caches, caches, strict=True)]
    torch.testing.assert_close(output, at.x + sum(line))


def test_overrides_stand_during_a_call_only_also_when_it_fails() -> None:
    case = tiny.dit()
    graph = recognise(case.model).graph(case.model)
    gated, before = GatedNetwork(graph), tiny.snapshot(case.model)

    def fails() -> torch.Tensor:
        assert len(tiny.overridden(case.model)) == len(graph)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gated.dense(fails)
    assert tiny.snapshot(case.model) == before


def test_families_all_open_are_dense_bit_by_bit_and_zeros_are_not(case: tiny.Case) -> None:
    family = recognise(case.model)
    for caching in family.cachings:
        graph = family.graph(case.model, caching)
        gated, count = GatedNetwork(graph), len(graph.masked)
        x, cond = case.latent(), case.cond()
        start = gated.dense(lambda x=x, cond=cond: case(x, 900.0, cond), 900.0)
        later = tiny.step(x, start.output)
        learned = Gates(torch.full((2, count), 0.5))
        dense = case(later, 500.0, cond)

        def call(runs: np.ndarray) -> torch.Tensor:
            def predict() -> torch.Tensor:
                t = torch.full((later.shape[0],), 500.0)  # noqa: B023
                return case.call(case.model, later, t, cond)  # noqa: B023

            return gated(predict, learned.fixed(1, runs), start.caches, 500.0).output  # noqa: B023

        assert torch.equal(call(np.ones(count, dtype=bool)), dense)
        assert not torch.equal(call(np.zeros(count, dtype=bool)), dense)


def test_weights_get_no_gradient_while_frozen_and_flags_come_back() -> None:
    case = tiny.dit()
    case.model.requires_grad_(True).train()
    first = next(case.model.parameters())
    first.requires_grad_(False)
    with frozen(case.model):
        assert not any(p.requires_grad for p in case.model.parameters())
        assert not any(m.training for m in case.model.modules())
    assert not first.requires_grad and sum(not p.requires_grad for p in case.model.parameters()) == 1
    assert all(m.training for m in case.model.modules())


def test_the_width_of_the_toys_is_what_the_hand_computations_use() -> None:
    assert toy().denoiser.begin([0]).x.shape == (1, WIDTH)
