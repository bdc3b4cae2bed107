"""Which steps run: as many as wanted, the first and last ones among them, and no gap longer than allowed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.core.errors import RecipeError
from skipstone.core.plan.call_plan import FEWEST_STEPS, CallPlan, even_keys, growing_keys, keys_for, limited
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.call_skip import CallSkip

STEPS = st.integers(1, 120)


def run_of(steps: int, stages: int = 1) -> Horizon:
    """A run with known calls."""
    calls = steps * stages
    return Horizon(tuple(990.0 * (calls - k) / calls for k in range(calls)), stages=stages)


@given(STEPS, st.data())
def test_even_steps_are_as_many_as_wanted_with_the_first_and_the_last(steps: int, data: st.DataObject) -> None:
    calls = data.draw(st.integers(1, steps))
    keys = even_keys(steps, calls)
    assert len(keys) == len(set(keys)) == calls and list(keys) == sorted(keys)
    assert keys[0] == 0 and (calls == 1 or keys[-1] == steps - 1) and keys[-1] < steps
    gaps = [b - a for a, b in pairwise(keys)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    turns = sum(a != b for a, b in pairwise(gaps))
    assert turns <= 2, "gaps of a length lie together"
    assert len(set(gaps)) < 2 or gaps[-1] == min(gaps), "the last one is short"


@given(STEPS, st.data())
def test_warm_up_and_tail_run_as_far_as_the_calls_suffice(steps: int, data: st.DataObject) -> None:
    calls, warmup, tail = (data.draw(st.integers(low, steps)) for low in (1, 1, 0))
    keys = even_keys(steps, calls, warmup, tail)
    assert len(keys) == calls and keys[0] == 0 and keys[-1] < steps
    if warmup + tail <= calls:
        assert {*range(warmup), *range(steps - tail, steps)} <= set(keys)


@given(STEPS, st.integers(1, 8), st.data())
def test_no_gap_is_longer_than_the_longest_that_is_allowed(steps: int, most: int, data: st.DataObject) -> None:
    keys = {0, *data.draw(st.sets(st.integers(0, steps - 1)))}
    found = limited(keys, steps, most)
    assert keys <= set(found) and max(found) < steps
    assert all(b - a - 1 <= most for a, b in zip(found, [*found[1:], steps], strict=True))
    assert limited(keys, steps, 0) == tuple(sorted(keys))


def test_spectrums_published_windows() -> None:
    """Warm-up 5, first window 2, growth .75, 50 steps: 14 calls run."""
    assert growing_keys(50, 5, 0, 0.75) == (0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46)


@given(st.integers(9, 100), st.floats(1.0, 4.0))
def test_growing_gaps_never_shrink_and_meet_the_budget(steps: int, speedup: float) -> None:
    keys = keys_for(CallSkip(speedup=speedup, rule="growing", warmup=3), steps)
    gaps = [b - a for a, b in pairwise(keys[:-1])]
    assert keys[0] == 0 and keys[-1] == steps - 1 and gaps == sorted(gaps)
    assert len(keys) <= round(steps / speedup) + 2


@given(st.integers(9, 100), st.floats(1.0, 4.0))
def test_the_speed_up_is_that_of_the_calls(steps: int, speedup: float) -> None:
    assert len(keys_for(CallSkip(speedup=speedup), steps)) == max(1, round(steps / speedup))


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"every": 3}, (0, 3, 6, 9)),
        ({"every": 4}, (0, 4, 8, 9)),
        ({"every": 4, "tail": 0}, (0, 4, 8)),
        ({"every": 4, "warmup": 3}, (0, 1, 2, 4, 8, 9)),
        ({"keys": (0, 5)}, (0, 5)),
        ({"keys": (0, 5), "max_gap": 2}, (0, 2, 5, 7)),
        ({"calls": 4}, (0, 3, 6, 9)),
        ({"calls": 1}, (0,)),
        ({"calls": 10}, tuple(range(10))),
        ({"speedup": 20.0}, (0,)),
        ({"speedup": 2.0, "max_gap": 1}, (0, 2, 4, 6, 7, 9)),
    ],
    ids=str,
)
def test_settings_and_their_steps(settings: dict[str, Any], keys: tuple[int, ...]) -> None:
    plan = CallPlan(CallSkip(**settings), run_of(10))
    assert plan.keys == keys and tuple(k for k in range(10) if plan.runs(k)) == keys


@pytest.mark.parametrize("settings", [{"calls": 11}, {"keys": (0, 10)}], ids=str)
def test_what_the_run_does_not_have_is_refused_with_the_remedy(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"this run.*(10 steps|last step is 9)"):
        CallPlan(CallSkip(**settings), run_of(10))


def test_a_run_of_few_steps_is_refused_unless_its_steps_are_chosen() -> None:
    with pytest.raises(RecipeError, match="too few to forecast"):
        CallPlan(CallSkip(), run_of(FEWEST_STEPS))
    assert CallPlan(CallSkip(calls=2), run_of(FEWEST_STEPS)).keys == (0, 7)
    assert CallPlan(CallSkip(), run_of(FEWEST_STEPS + 1)).keys is not None


def test_the_calls_that_run_are_all_stages_of_their_steps() -> None:
    run = run_of(10, stages=2)
    plan = CallPlan(CallSkip(every=3), run)
    assert run.timesteps is not None
    assert plan.horizon_of_runs().timesteps == tuple(run.timesteps[i] for k in (0, 3, 6, 9) for i in (2 * k, 2 * k + 1))
    plan.abandon()
    assert plan.horizon_of_runs().timesteps is None


@given(st.floats(1.0, 20.0))
def test_step_by_step_the_share_of_steps_is_the_same(speedup: float) -> None:
    plan = CallPlan(CallSkip(speedup=speedup), Horizon())
    ran = [k for k in range(1000) if plan.runs(k)]
    assert ran[0] == 0 and len(ran) == pytest.approx(1000 / speedup, abs=1.01)


@pytest.mark.parametrize(("last", "keys"), [(50.0, (0, 6, 13, 19)), (1.0, (0, 9, 18, 19))])
def test_where_the_last_step_sees_almost_no_noise_the_one_before_it_runs_too(
    last: float, keys: tuple[int, ...]
) -> None:
    times = tuple(950.0 - (950.0 - last) * k / 19 for k in range(20))
    plan = CallPlan(CallSkip(calls=4), Horizon(times))
    assert plan.keys == keys
    assert CallPlan(CallSkip(calls=4, tail=0), Horizon(times)).keys == even_keys(20, 4, tail=0)


@pytest.mark.parametrize("announced", [True, False])
def test_a_sampler_that_continues_its_outputs_gets_the_last_two_steps_and_no_more_calls(announced: bool) -> None:
    known = run_of(20) if announced else Horizon(steps=20)
    for calls in (5, 7, 10):
        keys = CallPlan(CallSkip(calls=calls), replace(known, multistep=True)).keys
        assert keys == even_keys(20, calls, tail=2) and len(keys) == calls
    assert CallPlan(CallSkip(keys=(0, 19)), replace(known, multistep=True)).keys == (0, 19)
    assert CallPlan(CallSkip(calls=5, tail=0), replace(known, multistep=True)).keys == even_keys(20, 5, tail=0)


@pytest.mark.parametrize(("shift", "tail"), [(1.0, 2), (3.0, 1)])
def test_where_steps_grow_towards_the_end_the_last_one_decides_alone(shift: float, tail: int) -> None:
    """Flow models with a shift take their longest steps at little noise."""
    levels = [1 - k / 20 for k in range(20)]
    times = tuple(1000 * shift * s / (1 + (shift - 1) * s) for s in levels)
    assert CallPlan(CallSkip(calls=7), Horizon(times, multistep=True)).keys == even_keys(20, 7, tail=tail)


def test_where_a_multistep_samplers_steps_crowd_at_little_noise_its_keys_are_even_in_time() -> None:
    crowded = tuple(999.0 * (1 - k / 20) ** 2 for k in range(20))
    known = Horizon(crowded, multistep=True)
    for calls in (7, 10):
        keys = CallPlan(CallSkip(calls=calls), known).keys
        assert keys == even_keys(20, calls, times=crowded, noisy=17) and len(keys) == calls, "17 is the last with noise"
        assert keys is not None and max(b - a for a, b in pairwise(keys)) >= 5, "long gaps at the end"
        gaps = [crowded[a] - crowded[b] for a, b in pairwise(keys[:-1])]
        assert max(gaps[:-1]) - min(gaps[:-1]) < 120
    early = tuple(999.0 - t for t in reversed(crowded))
    for other in (replace(known, multistep=False), replace(known, timesteps=early), Horizon(steps=20, multistep=True)):
        plain = CallPlan(CallSkip(calls=7), other).keys
        assert plain in (even_keys(20, 7), even_keys(20, 7, tail=2), even_keys(20, 7, noisy=17)), "even in the steps"


@pytest.mark.parametrize(
    ("steps", "calls", "line", "corrected"), [(20, 10, (12, 15), (10, 13)), (28, 14, (18, 21), (16, 19))]
)
def test_a_single_longer_gap_comes_earlier_where_steps_grow_and_forecasts_are_corrected(
    steps: int, calls: int, line: tuple[int, int], corrected: tuple[int, int]
) -> None:
    even, levels = run_of(steps), tuple(float(level) for level in range(steps, -1, -1))
    growing = Horizon(tuple(1000 * (1 - (step / steps) ** 2) for step in range(steps)))
    for horizon, predictor, gap in (
        (replace(growing, levels=levels), "auto", corrected),
        (replace(growing, levels=levels), "line", line),
        (replace(growing, levels=levels), "foca", line),
        (replace(even, levels=levels), "auto", line),
        (growing, "auto", line),
        (growing, "corrected", line),  # its levels are not known, so it is a line
    ):
        keys = CallPlan(CallSkip(calls=calls, predictor=predictor), horizon).keys
        assert keys is not None and [pair for pair in pairwise(keys) if pair[1] - pair[0] == 3] == [gap]
