"""Whole trainings on toys: what is learned, what is kept, what is left alone (methods page, block masking 11, 13, 14, 17)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn
from toys import WIDTH, Chain, Residual, Skips, ToyDenoiser, toy

from skipstone.core.calibrate.denoiser import Trajectory
from skipstone.core.calibrate.masks.baselines import rule_masks
from skipstone.core.calibrate.masks.costs import MARGIN, Costs
from skipstone.core.calibrate.masks.forms import unused
from skipstone.core.calibrate.masks.gated import GatedNetwork
from skipstone.core.calibrate.masks.masked_model import MaskedModel
from skipstone.core.calibrate.masks.seeds import EVALUATION_SEEDS
from skipstone.core.calibrate.masks.settings import PAPER, TrainSettings
from skipstone.core.calibrate.masks.trainer import (
    Progress,
    StopTraining,
    Trained,
    begin,
    choose_start,
    train,
    train_masked,
)
from skipstone.core.calibrate.masks.windowed import windows
from skipstone.core.errors import MaskError, ModelError, RecipeError
from skipstone.core.measure.fidelity import relative_error
from skipstone.core.recipe.mask import Mask

NAMES = ["interleaved", "sequential", "windowed", "exchange", "search"]


def settings(form: str = "interleaved", **more: object) -> TrainSettings:
    """Small and quick."""
    given = {"form": form, "target": 0.6, "passes": 6, "batch": 4, "updates": 3, "profile_batch": 2, "lr": 0.1}
    given["refine_batch"] = 4
    return TrainSettings(**{**given, **more})  # type: ignore[arg-type]


class Constant(nn.Module):
    """A branch that never changes."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """[B, WIDTH] -> [B, WIDTH]."""
        return torch.full_like(x, 0.7)


class Swinging(nn.Module):
    """A branch that moves another coordinate at each of the six calls, so that no error makes up for another."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """[B, WIDTH] -> [B, WIDTH]."""
        return 3 * torch.eye(WIDTH, dtype=x.dtype)[round(5 * (1 - float(t)))].expand_as(x)


class TwoBranches(Residual):
    """One block that never changes, one that always does."""

    def __init__(self) -> None:
        super().__init__(0)
        self.nodes = nn.ModuleList([Constant(), Swinging()])
        self.unused = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("form", "sampling"),
    [
        ("interleaved", "bernoulli"),
        ("interleaved", "mean"),
        ("interleaved", "row"),
        ("sequential", "gumbel"),
        ("windowed", "bernoulli"),
        ("windowed", "gumbel"),
        ("search", "bernoulli"),
    ],
)
def test_a_constant_block_is_switched_off_and_a_swinging_one_stays_on(form: str, sampling: str) -> None:
    wanted = settings(form, sampling=sampling, target=7 / 12, passes=16, start="uniform", initial=0.6, tries=20)
    trained = train_masked(toy(TwoBranches(), calls=6), wanted)
    expected = np.array([[True, True], *[[False, True]] * 5])
    assert np.array_equal(trained.mask.run, expected)
    if form != "search":
        assert (trained.mask.probabilities[1:, 1] > trained.mask.probabilities[1:, 0]).all()


@pytest.mark.parametrize("form", NAMES)
@pytest.mark.parametrize(("kind", "target"), [(Chain, 0.7), (Skips, 0.4)])
def test_every_form_meets_the_budget_after_liveness(form: str, kind: type[Chain], target: float) -> None:
    trained = train_masked(toy(kind(8), calls=10), settings(form, target=target, passes=2, batch=2, updates=2))
    assert abs(trained.mask.provenance["share"] - target) <= MARGIN
    assert trained.mask.run[0].all()
    assert trained.mask.probabilities.min() >= 0 and trained.mask.probabilities.max() <= 1
    assert len(trained.history) == 2


def test_training_begins_at_the_rule_that_is_nearest_to_dense() -> None:
    """Blocks that settle at once, and one that does not: the greedy rule beats an interval."""
    model = toy(TwoBranches(), calls=6)
    training = begin(model, settings(target=7 / 12))
    interval = training.strategy.mask()
    choose_start(training)
    chosen, comparison = training.strategy.mask(), training.strategy.comparison
    made = rule_masks(model, training.settings.ceiling, [1, 2])
    assert set(made) == {"interval", "interval, last full", "feature variation"}
    error = comparison.held_out
    assert error(chosen) == min(map(error, made.values())) < 0.9 * error(interval)


@pytest.mark.parametrize("kind", [Chain, Skips])
def test_a_search_goes_on_from_the_very_mask_it_found(kind: type[Chain]) -> None:
    """Where later runs make earlier ones dead there would be room for more, which is not always better."""
    losses: list[float] = []
    trained = train_masked(
        toy(kind(8), calls=16), settings("search", passes=6, target=0.4), lambda n: losses.append(n.loss)
    )
    assert all(b <= a for a, b in itertools.pairwise(losses)) and losses[-1] < losses[0]
    assert np.array_equal(trained.mask.run, trained.mask.probabilities > 0.5)


class Swayed(ToyDenoiser):
    """Noises that training finds its moves on have their first number set, all others have it zero."""

    misled = True

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Noise, and the sign that blocks go by."""
        x = super().begin(seeds).x
        of_training = torch.tensor([self.misled and (s < 1 << 16 or 0 < (1 << 20) - s <= 4) for s in seeds])
        x[:, 0] = of_training.to(x)
        return Trajectory(x)


class ByTheSign(Swinging):
    """Moves a number at each call, where the first number is set or where it is zero."""

    def __init__(self, where: bool) -> None:
        super().__init__()
        self.where = where

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """[B, WIDTH] -> [B, WIDTH], zero in the first number."""
        moved = 3 * torch.eye(WIDTH, dtype=x.dtype)[max(1, round(5 * (1 - float(t))))].expand_as(x)
        return moved * ((x[:, :1] > 0) == self.where)


def swayed(misled: bool) -> MaskedModel:
    """Of two blocks one acts on the noises of training alone, the other on all others alone."""
    network = TwoBranches()
    network.nodes = nn.ModuleList([ByTheSign(True), ByTheSign(False)])
    model = toy(network, calls=6)
    denoiser = Swayed(network, model.denoiser.timesteps)
    denoiser.misled = misled
    return replace(model, denoiser=denoiser)


@pytest.mark.parametrize("form", [*NAMES, "paper"])
def test_no_training_ends_above_its_start_also_where_its_noises_mislead(form: str) -> None:
    """A search takes no move that does not hold on other noises; where gradients mislead, the start is kept."""
    wanted = settings(form, passes=8, tries=10, lambda1=0.05)
    for misled in (True, False):
        model = swayed(misled)
        start = train_masked(model, replace(wanted, passes=0)).mask.run
        trained = train_masked(model, wanted)
        reported = [EVALUATION_SEEDS + n for n in range(8)]
        dense = model.rollout(reported)
        before, after = (relative_error(model.rollout(reported, run), dense) for run in (start, trained.mask.run))
        assert after <= before
        assert trained.kept_start == trained.mask.provenance["kept_start"]
        assert misled or not trained.kept_start


def test_the_papers_form_is_whole_by_one_setting() -> None:
    paper = settings("paper")
    assert {name: getattr(paper, name) for name in PAPER} == PAPER
    assert (PAPER["start"], PAPER["control"], PAPER["forecast"], PAPER["refine"]) == ("uniform", "dual", False, 0)
    by_name, spelt_out = (train_masked(toy(), s) for s in (paper, settings("interleaved", **PAPER)))
    assert np.array_equal(by_name.mask.probabilities, spelt_out.mask.probabilities)
    assert np.array_equal(by_name.mask.run, spelt_out.mask.run)
    assert replace(paper, passes=3).passes == 3
    for name, value in (("sampling", "gumbel"), ("loss_at", "output"), ("refine", 5)):
        with pytest.raises(RecipeError, match=f"form='paper' has {name}=.*: leave {name} out"):
            settings("paper", **{name: value})


def test_the_papers_form_adds_its_regularisers_and_forecasts_nothing() -> None:
    from skipstone.pipelines.denoiser import denoiser_of

    training = begin(toy(Residual(4), 8), settings("paper", lambda1=0.3))
    learner = training.strategy.learner
    assert learner.lambda1 == 0.3 and learner.gates.values[1:].eq(TrainSettings.initial).all()
    learner.step(0 * learner.gates.rows[3].sum(), [3])
    assert (learner.gates.values[3] < TrainSettings.initial).all()
    quick = settings("paper", passes=1, batch=1, profile_batch=1, refine_batch=1)
    assert not train(denoiser_of(tiny.dit_pipeline(), 4), quick).mask.forecast


def test_settings_that_a_form_does_not_use_are_named(caplog: pytest.LogCaptureFixture) -> None:
    from skipstone.pipelines.denoiser import denoiser_of

    unread = {"search": "lr, updates", "windowed": "lambda1, tries", "paper": "window"}
    given = {"search": {"lr": 0.1, "updates": 3}, "windowed": {"lambda1": 0.1, "tries": 3, "lr": 0.1, "window": 4}}
    given["paper"] = {"lambda1": 0.1, "window": 4, "lambda2_ratio": 0.1}
    for form, names in unread.items():
        assert ", ".join(unused(TrainSettings(form=form, **given[form]))) == names
    assert unused(TrainSettings()) == unused(TrainSettings(form="paper")) == []
    uniform = {form: TrainSettings(form=form, start="uniform", initial=0.5) for form in ("windowed", "search")}
    assert unused(uniform["windowed"]) == []
    assert unused(uniform["search"]) == unused(TrainSettings(form="windowed", initial=0.5)) == ["initial"]
    quick = TrainSettings(passes=0, refine_batch=1, profile_batch=1, lr=0.1)
    train(denoiser_of(tiny.dit_pipeline(), 4), quick)
    assert [r.getMessage() for r in caplog.records] == [
        "training ignores lr: form='search' with control='project' does not use them"
    ]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"seed": 2047}, "seed=2047 is above 2046"),
        ({"sureness": 0.2}, "sureness=0.2 is outside"),
        ({"lr": float("nan")}, "lr=nan is outside"),
        ({"refine_batch": 0}, "refine_batch=0 must be a whole number from 1 on: 16 is the default"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float], line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        TrainSettings(**wrong)  # type: ignore[arg-type]
    assert line in str(caught.value)


@pytest.mark.parametrize("control", ["dual", "project"])
def test_control_brings_the_expected_share_to_the_target(control: str) -> None:
    shares: list[float] = []
    wanted = settings("interleaved", control=control, target=0.5, passes=60, start="uniform", lambda1=0.05)
    train_masked(toy(Residual(4), calls=8), wanted, lambda now: shares.append(now.share))
    near = MARGIN if control == "project" else 0.05
    assert shares[0] > 0.8 and abs(float(np.mean(shares[-8:])) - 0.5) <= near


def test_a_speedup_is_a_share_of_the_multiply_adds() -> None:
    assert TrainSettings(speedup=1.6).share == 0.625
    trained = train_masked(toy(Residual(8), calls=16), settings(speedup=2.0, passes=1))
    assert abs(trained.mask.provenance["speedup"] - 2) < 0.08


def test_exchange_lowers_the_error_of_an_interval_mask() -> None:
    model = toy(Residual(8), calls=12)
    losses: list[float] = []
    wanted = settings("exchange", passes=8, target=0.5, batch=16, refine_batch=32)
    first = train_masked(model, settings("exchange", passes=0, target=0.5)).mask.run
    found = train_masked(model, wanted, lambda now: losses.append(now.loss)).mask.run
    held_out = [9_000 + n for n in range(32)]
    dense = model.rollout(held_out)
    errors = [float((model.rollout(held_out, run) - dense).norm()) for run in (first, found)]
    assert errors[1] < 0.97 * errors[0]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(losses))


def test_the_search_lowers_the_error_and_keeps_the_budget() -> None:
    model = toy(Residual(6), calls=10)
    trained = train_masked(model, settings(passes=0, refine=60, target=0.5))
    errors = trained.mask.provenance["search_errors"]
    assert len(errors) == 60 and errors[-1] < 0.9 * errors[0]
    assert errors == sorted(errors, reverse=True)
    assert trained.mask.provenance["share"] <= 0.51


@pytest.mark.parametrize("form", ["search", "exchange"])
@pytest.mark.parametrize("even", [{"sureness": 0.5}, {"start": "uniform", "initial": 0.2}], ids=str)
def test_a_mask_that_is_searched_keeps_its_runs_where_probabilities_tell_nothing(
    form: str, even: dict[str, Any], tmp_path: Path
) -> None:
    """A run and a reuse of equal probability, or a start below one half, must not become an empty mask."""
    file, wanted = tmp_path / "training.safetensors", settings(form, target=0.5, passes=2, **even)
    found = train_masked(toy(), wanted, checkpoint=file).mask
    assert 0.5 - MARGIN <= found.provenance["share"] <= wanted.ceiling
    at_first = begin(toy(), wanted)
    at_first.load(file)
    assert np.array_equal(at_first.strategy.mask(), found.run)
    scores = at_first.strategy.scores()
    assert scores.shape == found.run.shape and (scores[0] >= scores[1:]).all()


@pytest.mark.parametrize("form", NAMES)
def test_the_same_seed_gives_the_same_mask_and_global_randomness_is_untouched(form: str) -> None:
    state = torch.get_rng_state()
    one, two, other = (train_masked(toy(), settings(form, seed=s, passes=2)) for s in (3, 3, 4))
    assert np.array_equal(one.mask.probabilities, two.mask.probabilities)
    assert [p.loss for p in one.history] == [p.loss for p in two.history] != [p.loss for p in other.history]
    assert torch.equal(torch.get_rng_state(), state)


def test_samples_are_never_used_twice_and_the_search_has_its_own() -> None:
    model = toy()
    train_masked(model, settings(passes=5, refine=2))
    seen = [seed for batch in model.denoiser.begun for seed in batch]
    trained_on = [s for s in seen if s < 1 << 16]
    assert len(trained_on) == 5 * 4 == len(set(trained_on))


@pytest.mark.parametrize("form", NAMES)
def test_a_stopped_training_goes_on_to_the_same_result(form: str, tmp_path: Path) -> None:
    file = tmp_path / "training.safetensors"

    def stop(now: Progress) -> None:
        if now.done == 2:
            raise KeyboardInterrupt

    wanted = settings(form, passes=4)
    whole = train_masked(toy(), wanted)
    part = train_masked(toy(), wanted, stop, file)
    assert part.stopped and len(part.history) == 2 and not whole.stopped
    rest = train_masked(toy(), wanted, checkpoint=file)
    assert np.array_equal(rest.mask.probabilities, whole.mask.probabilities)
    assert np.array_equal(rest.mask.run, whole.mask.run)
    assert [p.loss for p in rest.history] == pytest.approx([p.loss for p in whole.history])
    assert [f.name for f in tmp_path.iterdir()] == ["training.safetensors"]


def test_stopping_in_the_middle_of_a_pass_keeps_what_was_learned() -> None:
    model = toy()
    after = {"calls": 0}

    def cancel(call: int) -> None:
        after["calls"] += 1
        if after["calls"] > 300:
            raise StopTraining

    model.denoiser.on_predict = cancel
    trained = train_masked(model, settings(passes=50))
    assert trained.stopped and 0 < len(trained.history) < 50
    assert abs(trained.mask.provenance["share"] - 0.6) <= MARGIN


def test_a_checkpoint_of_other_settings_or_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "training.safetensors"
    begin(toy(), settings()).save(file)
    with pytest.raises(RecipeError, match="other settings \\(lr, seed\\)"):
        begin(toy(), settings(lr=0.2, seed=5)).load(file)
    with pytest.raises(MaskError, match="another model or number of calls"):
        begin(toy(calls=7), settings()).load(file)


def losses_of(credit: int, p: Tensor) -> tuple[float, list[Tensor]]:
    """The sum of the losses of a pass, and the gradients that it gives the probabilities, without a step."""
    wanted = settings(sampling="mean", credit=credit, advance="teacher", start="uniform", control="fixed", lambda1=0.0)
    strategy = begin(toy(Residual(), len(p)), wanted).strategy
    strategy.learner.gates.assign(p)  # type: ignore[attr-defined]
    strategy.learner.step = lambda loss, calls: loss.backward()  # type: ignore[attr-defined]
    total = strategy.step_all() * len(p)  # type: ignore[attr-defined]
    return total, [row.grad for row in strategy.learner.gates.rows[1:]]  # type: ignore[attr-defined]


def test_with_credit_a_probability_answers_for_later_calls_that_reuse_its_value() -> None:
    p, step = torch.full((4, 4), 0.5), 1e-2
    own, whole = (losses_of(credit, p)[1] for credit in (0, 3))
    for call in range(1, 4):
        for block in range(4):
            more, less = p.clone(), p.clone()
            more[call, block] += step
            less[call, block] -= step
            slope = (losses_of(0, more)[0] - losses_of(0, less)[0]) / (2 * step)
            assert float(whole[call - 1][block]) == pytest.approx(slope, rel=0.02, abs=1e-6)
    assert torch.equal(own[-1], whole[-1]) and not torch.allclose(own[0], whole[0], rtol=0.2)


def saved_during(calls: int, form: str) -> int:
    """The most tensors that autograd keeps at once in a pass."""
    training = begin(toy(Residual(), calls), settings(form, sampling="mean"))
    alive, most = [0], [0]

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor.detach()
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self) -> None:
            alive[0] -= 1

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        training.run_pass()
    return most[0]


def test_the_papers_form_keeps_the_activations_of_one_call_whatever_the_number_of_calls() -> None:
    assert saved_during(6, "interleaved") == saved_during(24, "interleaved") > 0
    assert saved_during(6, "sequential") == saved_during(24, "sequential") > 0


def test_each_call_of_the_papers_form_is_one_dense_and_one_gated_evaluation() -> None:
    model = toy(calls=7)
    training = begin(model, settings())
    before = model.denoiser.calls_made
    training.run_pass()
    assert model.denoiser.calls_made - before == 1 + 2 * 6


def test_windows_cover_the_run_and_move_with_the_offset() -> None:
    assert [list(w) for w in windows(7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [list(w) for w in windows(7, 3, 1)] == [[0], [1, 2, 3], [4, 5, 6]]
    assert [list(w) for w in windows(4, 0)] == [[0, 1, 2, 3]]
    assert [list(w) for w in windows(6, 3)] == [[0, 1, 2], [3, 4, 5]]


def digest(model: nn.Module) -> str:
    """Of all weights and buffers."""
    tensors = model.state_dict().items()
    return hashlib.sha256(b"".join(n.encode() + t.numpy().tobytes() for n, t in sorted(tensors))).hexdigest()


@pytest.mark.parametrize(
    ("form", "checkpointing"),
    [
        ("interleaved", "block"),
        ("sequential", "none"),
        ("windowed", "call"),
        ("exchange", "block"),
        ("exchange", "call"),
        ("search", "none"),
    ],
)
def test_training_a_real_network_changes_no_weight_and_leaves_no_trace(form: str, checkpointing: str) -> None:
    from skipstone.pipelines.denoiser import denoiser_of

    pipe = tiny.dit_pipeline()
    network = pipe.transformer.requires_grad_(True)
    before, hash_before, forward = tiny.snapshot(network), digest(network), type(network).forward
    wanted = settings(form, passes=2, batch=2, checkpointing=checkpointing, refine=2, profile_batch=1, refine_batch=2)
    trained = train(denoiser_of(pipe, 5), wanted, model="tiny")
    assert digest(network) == hash_before and tiny.snapshot(network) == before
    assert type(network).forward is forward and all(p.requires_grad and p.grad is None for p in network.parameters())
    assert trained.mask.provenance["model"] == "tiny" and abs(trained.mask.provenance["share"] - 0.6) < 0.08


def test_the_mask_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    trained: Trained = train_masked(toy(), settings(passes=2))
    trained.mask.save(tmp_path / "mask.safetensors")
    again = Mask.load(tmp_path / "mask.safetensors")
    assert np.array_equal(again.run, trained.mask.run)
    assert np.array_equal(again.probabilities, trained.mask.probabilities)
    assert again.provenance == trained.mask.provenance and again.timesteps == trained.mask.timesteps


def test_a_network_of_no_known_family_is_refused() -> None:
    with pytest.raises(ModelError, match="not of a supported family"):
        train(ToyDenoiser(Residual()), settings())


def test_rollouts_evaluate_what_the_mask_needs_and_nothing_else() -> None:
    """Every third call in full is FORA's number of evaluations."""
    network = Residual()
    graph, ran = network.graph(), []
    for node in network.nodes:
        inner = node.forward
        node.forward = lambda x, t, inner=inner: (ran.append(1), inner(x, t))[1]  # type: ignore[method-assign]
    model = MaskedModel(
        ToyDenoiser(network, tuple(range(9, 0, -1))), "toy", graph, GatedNetwork(graph), Costs(graph, np.ones(4), 0.0)
    )
    run = np.zeros((9, 4), dtype=bool)
    run[::3] = True
    model.rollout([1], run)
    assert len(ran) == 3 * 4
