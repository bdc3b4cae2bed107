"""Checkpoint lists: their values, and how they map to other runs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.core.errors import RecipeError
from skipstone.core.plan.checkpoints import Checkpoints
from skipstone.core.plan.run import Horizon, Positions
from skipstone.core.plan.token_plan import TokenPlan
from skipstone.core.recipe.checkpoint_lists import CHECKPOINT_PRESETS, PAPER_CALLS, checkpoint_calls, parse_checkpoints
from skipstone.core.recipe.token_merge import TokenMerge

PAPER_LISTS = {
    "config_1": "0,1,2,3,5,10,15,25,35",
    "config_2": "0,10,11,12,15,20,25,30,35,45",
    "config_3": "0,8,11,13,20,25,30,35,45,46,47,48,49",
    "config_4": "0,9,13,14,15,28,29,32,36,45",
    "config_adaptive": "0,1,5,7,10,12,15,35,40,45,46,47,48,49,50,51",
    "config_five": "0,5,10,15,20,25,30,35,40,45,50",
}
PLMS = [981.0, 961.0, *(float(t) for t in range(961, 0, -20))]
"""The 51 calls of 50 PLMS steps: the second timestep occurs twice."""


def rescale(calls: Sequence[int], to: int, of: int = PAPER_CALLS) -> tuple[int, ...]:
    """What evenly spaced full runs must agree with: call k of `of` goes to `round(k (to-1) / (of-1))`; 0 is always kept."""
    return tuple(sorted({0, *(round(k * (to - 1) / (of - 1)) for k in calls if k < of)}))


def even(calls: int, top: float = 999.0, bottom: float = 0.0) -> list[float]:
    """Evenly spaced timesteps, falling."""
    return [top + (bottom - top) * k / max(1, calls - 1) for k in range(calls)]


def planned(merge: TokenMerge, steps: list[float]) -> list[int]:
    """Checkpoint calls of a planned run."""
    plan = TokenPlan(merge, Horizon(tuple(steps)))
    return [k for k, t in enumerate(steps) if plan.is_checkpoint(k, t)]


def unplanned(merge: TokenMerge, steps: list[float]) -> list[int]:
    """Checkpoint calls of the same run when its timesteps are not announced."""
    plan = TokenPlan(merge, Horizon())
    return [k for k, t in enumerate(steps) if plan.is_checkpoint(k, t)]


@pytest.mark.parametrize("name", PAPER_LISTS)
def test_presets_are_the_papers_table(name: str) -> None:
    assert CHECKPOINT_PRESETS[name] == tuple(int(k) for k in PAPER_LISTS[name].split(","))
    assert checkpoint_calls(name) == CHECKPOINT_PRESETS[name]


def test_there_are_the_six_lists_and_every() -> None:
    assert set(CHECKPOINT_PRESETS) == {*PAPER_LISTS, "every"}
    assert CHECKPOINT_PRESETS["every"] == tuple(range(51))


@pytest.mark.parametrize(
    ("text", "calls"),
    [("0, 8, 11", (0, 8, 11)), ("11;8 0", (0, 8, 11)), (" 3,,3 ", (3,)), ([2, 1, 2], (1, 2)), ([], ())],
)
def test_lists_are_read_sorted_and_unique(text: str, calls: tuple[int, ...]) -> None:
    assert parse_checkpoints(text) == calls


@pytest.mark.parametrize("name", ["config_3", " CONFIG_3 ", "Every"])
def test_preset_names_are_kept(name: str) -> None:
    assert parse_checkpoints(name) == name.strip().lower()


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        assert parse_checkpoints(text) is not None
    except RecipeError as error:
        assert "\n" not in str(error)
        assert "checkpoints" in str(error)


@pytest.mark.parametrize("name", PAPER_LISTS)
def test_the_papers_51_calls_take_a_list_as_it_stands(name: str) -> None:
    assert len(PLMS) == PAPER_CALLS
    expected = [k for k in CHECKPOINT_PRESETS[name] if k < PAPER_CALLS]
    assert planned(TokenMerge(checkpoints=name), PLMS) == expected


@pytest.mark.parametrize("calls", [2, 3, 7, 10, 20, 26, 30, 50, 51, 52, 99, 100, 101, 250])
@pytest.mark.parametrize("name", PAPER_LISTS)
def test_a_list_maps_to_another_number_of_calls_by_rounding(calls: int, name: str) -> None:
    got = planned(TokenMerge(checkpoints=name), even(calls))
    assert got == list(rescale(CHECKPOINT_PRESETS[name], calls))


@given(st.integers(1, 300), st.lists(st.integers(0, 60), max_size=15), st.booleans(), st.integers(0, 1))
def test_no_run_is_indexed_past_its_end(total: int, calls: list[int], absolute: bool, base: int) -> None:
    merge = TokenMerge(checkpoints=calls, absolute=absolute, index_base=base)
    plan = TokenPlan(merge, Horizon(tuple(even(total))))
    assert plan.checkpoints.planned() <= set(range(total))
    assert 0 in plan.checkpoints.planned()


def test_absolute_lists_are_indices_of_the_run() -> None:
    assert planned(TokenMerge(checkpoints="config_1", absolute=True), even(20)) == [0, 1, 2, 3, 5, 10, 15]
    assert unplanned(TokenMerge(checkpoints="config_1", absolute=True), even(20)) == [0, 1, 2, 3, 5, 10, 15]


def test_counting_from_one_shifts_a_list_as_the_released_code_does() -> None:
    merge = TokenMerge(checkpoints="config_3", index_base=1, absolute=True)
    assert planned(merge, PLMS) == [0, 7, 10, 12, 19, 24, 29, 34, 44, 45, 46, 47, 48]
    adaptive = TokenMerge(checkpoints="config_adaptive", index_base=1, absolute=True)
    assert planned(adaptive, PLMS)[-2:] == [49, 50]


def test_an_empty_list_still_searches_at_the_first_call() -> None:
    assert planned(TokenMerge(checkpoints=[]), even(10)) == [0]
    assert unplanned(TokenMerge(checkpoints=[]), even(10)) == [0]


def test_every_is_every_call_of_any_run() -> None:
    for steps in (even(7), even(130), even(12, top=400)):
        everywhere = list(range(len(steps)))
        assert planned(TokenMerge(checkpoints="every"), steps) == everywhere
        assert unplanned(TokenMerge(checkpoints="every"), steps) == everywhere


def test_dropped_entries_are_known() -> None:
    adaptive = CHECKPOINT_PRESETS["config_adaptive"]
    assert Checkpoints(adaptive).dropped() == (51,)
    assert Checkpoints((0, 9, 10), absolute=True, timesteps=tuple(even(10))).dropped() == (10,)
    assert Checkpoints((0, 9, 50)).dropped() == ()


def test_image_to_image_keeps_a_lists_place_in_the_noise() -> None:
    steps = [t for t in even(51) if t <= 500]
    got = planned(TokenMerge(checkpoints="config_3"), steps)
    offset = PAPER_CALLS - len(steps)
    assert offset == 25
    assert got == [k - offset for k in CHECKPOINT_PRESETS["config_3"] if k >= offset]


def test_hires_passes_of_other_lengths_search_at_the_same_noise() -> None:
    steps = [t for t in even(101) if t <= 500]
    got = [steps[k] for k in planned(TokenMerge(checkpoints="config_3"), steps)]
    wanted = [even(51)[k] for k in CHECKPOINT_PRESETS["config_3"] if k >= 25]
    assert got == pytest.approx(wanted)


@pytest.mark.parametrize("name", PAPER_LISTS)
def test_an_unannounced_run_finds_the_same_checkpoints_by_noise(name: str) -> None:
    steps = even(51)
    assert unplanned(TokenMerge(checkpoints=name), steps) == planned(TokenMerge(checkpoints=name), steps)


def test_an_unannounced_run_of_few_calls_merges_neighbouring_entries() -> None:
    got = unplanned(TokenMerge(checkpoints=(0, 45, 46, 47, 48, 49)), even(6))
    assert got == [0, 5]


def test_going_back_up_in_noise_searches_anew() -> None:
    steps = [999.0, 700.0, 400.0, 800.0, 500.0]
    assert unplanned(TokenMerge(checkpoints=(0,)), steps) == [0, 3]


def test_window_by_position() -> None:
    plan = TokenPlan(TokenMerge(start=0.15, end=0.55), Horizon(tuple(even(11))))
    assert [k for k, t in enumerate(even(11)) if plan.serves(t)] == [2, 3, 4, 5]
    last = TokenPlan(TokenMerge(start=0.75), Horizon(tuple(even(11))))
    assert [k for k, t in enumerate(even(11)) if last.serves(t)] == [8, 9, 10]


@given(st.lists(st.floats(0, 999), min_size=1, max_size=30))
def test_positions_lie_in_the_unit_interval(steps: list[float]) -> None:
    positions = Positions.of_run(steps)
    assert all(0.0 <= positions.at(t) <= 1.0 for t in (*steps, 0.0, 999.0, 1200.0, -5.0))


def test_spacing_offsets_count_as_a_full_run() -> None:
    for steps in (PLMS, even(50, 980, 0), even(50, 999, 20), even(8, 999, 71)):
        assert Positions.of_run(steps).is_full(steps)
    assert not Positions.of_run(even(20, 600)).is_full(even(20, 600))
    assert not Positions.of_run(even(20, 999, 400)).is_full(even(20, 999, 400))
