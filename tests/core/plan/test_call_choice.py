"""Auto: which calls run for a number, by a profile or without one, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toy_denoiser import ToyDenoiser

from skipstone.core.calibrate.judging import choose
from skipstone.core.calibrate.profiling import dense, profile, with_plans
from skipstone.core.calibrate.proposals import proposals
from skipstone.core.errors import ProfileError, RecipeError
from skipstone.core.forecast.profile import HeldOut, Profile
from skipstone.core.models.family import identity
from skipstone.core.plan.call_choice import choose_calls
from skipstone.core.plan.call_plan import even_keys
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.auto import Auto
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe

NETWORK = identity(ToyDenoiser().network)
RUN = Horizon(ToyDenoiser().timesteps)


def plan(calls: int, error: float, space: str = "eps") -> HeldOut:
    """A plan whose errors are all about `error`."""
    errors = tuple(error * (1 + 0.001 * k) for k in range(19))
    return HeldOut(even_keys(12, calls), space, "line", errors, (0.1,) * (calls - 1), "even")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A profile with plans for 4, 6 and 9 of 12 calls."""
    known = with_plans(profile(ToyDenoiser(), range(2)), [plan(4, 0.2), plan(6, 0.05, "x0"), plan(9, 0.01)])  # type: ignore[arg-type]
    known.save(file := tmp_path_factory.mktemp("profiles") / "toy.safetensors")
    return str(file)


def test_without_a_profile_it_is_the_default_and_says_so() -> None:
    chosen = choose_calls(Auto(speedup=2.0), RUN, NETWORK)
    assert chosen.settings == CallSkip(speedup=2.0) and chosen.promise is None
    assert chosen.why == "no profile of this model: even steps by default"


@pytest.mark.parametrize(("speedup", "calls", "space"), [(3.0, 4, "eps"), (2.0, 6, "x0"), (1.3, 9, "eps")])
def test_a_measured_plan_is_taken_with_its_promise(path: str, speedup: float, calls: int, space: str) -> None:
    chosen = choose_calls(Auto(speedup=speedup, profile=path), RUN, NETWORK)
    assert chosen.settings.keys == even_keys(12, calls) and chosen.settings.space == space
    assert chosen.promise == pytest.approx(plan(calls, {4: 0.2, 6: 0.05, 9: 0.01}[calls]).quantile(0.9))
    assert chosen.bounds and set(chosen.bounds) == set(even_keys(12, calls)[1:])


def test_a_plan_for_a_part_of_the_run_promises_nothing(path: str) -> None:
    chosen = choose_calls(Auto(speedup=2.0, profile=path, start=0.2, end=0.9), RUN, NETWORK)
    assert chosen.settings.keys == even_keys(12, 6) and chosen.bounds
    assert (chosen.settings.start, chosen.settings.end, chosen.promise) == (0.2, 0.9, None)
    assert chosen.why.endswith("and all outside start to end: no error is promised")
    plain = choose_calls(Auto(speedup=2.0, end=0.5), RUN, NETWORK)
    assert plain.settings == CallSkip(speedup=2.0, end=0.5)


def test_without_the_guard_no_calls_are_added(path: str) -> None:
    assert not choose_calls(Auto(speedup=2.0, profile=path, guard=False), RUN, NETWORK).bounds


@pytest.mark.parametrize(("most", "calls"), [(0.3, 4), (0.06, 6), (0.02, 9)])
def test_the_fewest_calls_that_keep_the_error_are_taken(path: str, most: float, calls: int) -> None:
    assert len(choose_calls(Auto(max_error=most, profile=path), RUN, NETWORK).settings.keys) == calls


def test_auto_adds_methods_where_that_measured_better_and_others_do_not(tmp_path: Path) -> None:
    """A plan of 8 calls with blocks skipped, which costs what 6 calls cost."""
    skip = BlockSkip(every=2)
    joint = replace(plan(8, 0.03), beside=tuple(Recipe.of([skip]).plain()), share=0.49)
    known = with_plans(profile(ToyDenoiser(), range(2)), [plan(6, 0.05), joint])  # type: ignore[arg-type]
    known.save(file := tmp_path / "toy.safetensors")
    chosen = choose_calls(Auto(speedup=2.0, profile=str(file)), RUN, NETWORK)
    assert chosen.beside == (skip,) and len(chosen.settings.keys) == 8
    assert chosen.promise == pytest.approx(joint.quantile(0.9))
    within = choose_calls(Auto(max_error=0.06, profile=str(file)), RUN, NETWORK)
    assert within.beside == (skip,), "the cheaper of two that keep the error, not the one with fewer calls"
    part = Auto(speedup=2.0, profile=str(file), end=0.9)
    for method, alone in ((replace(part, end=1.0), False), (CallSkip(calls=6, profile=str(file)), True), (part, True)):
        other = choose_calls(method, RUN, NETWORK, alone)
        assert other.beside == () and other.settings.keys == even_keys(12, 6)
    dearer = with_plans(profile(ToyDenoiser(), range(2)), [plan(6, 0.05), replace(joint, share=0.6)])  # type: ignore[arg-type]
    dearer.save(file)
    assert choose_calls(Auto(speedup=2.0, profile=str(file)), RUN, NETWORK).beside == (), (
        "it costs more than was asked for"
    )
    worse = with_plans(profile(ToyDenoiser(), range(2)), [plan(6, 0.02), joint])  # type: ignore[arg-type]
    worse.save(file)
    assert choose_calls(Auto(speedup=2.0, profile=str(file)), RUN, NETWORK).beside == ()


def test_an_error_that_cannot_be_met_is_refused_with_the_nearest(path: str) -> None:
    with pytest.raises(RecipeError, match=r"the nearest is 0\.010, with 9 of 12 steps"):
        choose_calls(Auto(max_error=0.001, profile=path), RUN, NETWORK)


def test_an_error_needs_a_profile() -> None:
    with pytest.raises(RecipeError, match="max_error needs a profile"):
        choose_calls(Auto(max_error=0.1), RUN, NETWORK)


def test_calls_that_were_not_measured_promise_nothing(path: str) -> None:
    chosen = choose_calls(CallSkip(calls=5, profile=path), RUN, NETWORK)
    assert len(chosen.settings.keys) == 5 and chosen.promise is None and "were not measured" in chosen.why


def test_another_number_of_steps_promises_nothing(path: str) -> None:
    chosen = choose_calls(Auto(speedup=2.0, profile=path), Horizon(ToyDenoiser(24).timesteps), NETWORK)
    assert chosen.settings.keys == even_keys(24, 12) and chosen.promise is None and not chosen.bounds


def test_other_noise_levels_promise_nothing_and_have_no_plan_for_an_error(path: str) -> None:
    """Image to image: as many steps as the profile has, from less noise."""
    part = Horizon(tuple(0.6 * t for t in ToyDenoiser().timesteps))
    chosen = choose_calls(Auto(speedup=2.0, profile=path), part, NETWORK)
    assert chosen.settings.keys == even_keys(12, 6) and chosen.promise is None and not chosen.bounds
    with pytest.raises(RecipeError, match="no plans for this run's 12 noise levels"):
        choose_calls(Auto(max_error=0.3, profile=path), part, NETWORK)
    assert choose_calls(Auto(speedup=2.0, profile=path), Horizon(steps=12), NETWORK).promise is None


@pytest.mark.parametrize("network", ["5 weights", ""])
def test_a_profile_of_another_network_is_refused(path: str, network: str) -> None:
    with pytest.raises(ProfileError, match="another network"):
        choose_calls(Auto(profile=path), RUN, network)


def test_a_missing_file_is_refused_unless_it_is_to_be_recorded(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.safetensors")
    with pytest.raises(ProfileError, match="skipstone profile"):
        choose_calls(Auto(profile=missing), RUN, NETWORK)
    chosen = choose_calls(Auto(profile=missing, record=True), RUN, NETWORK)
    assert chosen.record == missing and chosen.settings.calls == 12


def test_auto_and_call_skip_exclude_each_other() -> None:
    from skipstone.core.recipe.recipe import Recipe

    with pytest.raises(RecipeError, match="keep one of them"):
        Recipe.of([Auto(), CallSkip()])
    assert Recipe.of([Auto(), CallSkip(speedup=1.0)]).auto == Auto()


def test_the_proposal_that_measures_best_is_chosen_and_its_errors_are_those_of_other_noises() -> None:
    denoiser = ToyDenoiser()
    known = profile(denoiser, range(3))  # type: ignore[arg-type]
    tried = proposals(known, 5)
    assert {p.name for p in tried} >= {"even", "shortest path"}

    def reference(seeds: object) -> object:
        return dense(denoiser, seeds)[0]  # type: ignore[arg-type]

    found = choose(denoiser, tried, range(100, 112), range(200, 209), reference, batch=3)  # type: ignore[arg-type]
    best, *others = found.finals
    assert best.proposal.keys == found.plan.keys
    assert len(found.plan.errors) == 9 and len(found.plan.one_call) == 4
    even = next((one for one in others if one.proposal is tried[0]), None)
    assert even is None or best.beats(even), "planning is not worse than not planning"
    again = choose(denoiser, tried, range(100, 112), range(300, 309), reference, batch=3).plan  # type: ignore[arg-type]
    assert again.keys == found.plan.keys and again.errors != found.plan.errors


def test_a_loaded_profile_chooses_as_the_one_in_memory(path: str) -> None:
    known = Profile.load(path)
    known = replace(known, plans=known.plans[:1])
    assert known.plans[0].quantile(0.9) == plan(4, 0.2).quantile(0.9)
