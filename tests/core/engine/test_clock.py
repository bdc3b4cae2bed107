"""The clock: which call is this, for the call patterns of real samplers, with labelled streams."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, ones

from skipstone.core.engine.clock import Clock, Stream
from skipstone.pipelines.streams import Labels

COND, UNCOND = Stream("cond", 1), Stream("uncond", 1)
BOTH = (COND, UNCOND)
Forward = tuple[float, Sequence[Stream]]


def run(forwards: Sequence[Forward], planned: Sequence[float] | None = None) -> tuple[list[int], Clock]:
    """Call index of each forward."""
    clock = Clock(planned)
    return [clock.tick(t, streams).index for t, streams in forwards], clock


def split(timesteps: Sequence[float]) -> list[Forward]:
    """Cond and uncond in forwards of their own."""
    return [(t, (stream,)) for t in timesteps for stream in BOTH]


def batched(timesteps: Sequence[float]) -> list[Forward]:
    """Cond and uncond in one forward."""
    return [(t, BOTH) for t in timesteps]


EVEN = [900.0, 700.0, 500.0, 300.0, 100.0]
PATTERNS: dict[str, list[float]] = {
    "euler, ddim, dpm++ 2m, unipc": EVEN,
    "heun": [900, 700, 700, 500, 500, 300, 300, 100, 100],
    "dpm2": [900, 806, 700, 598, 500, 401, 300, 188, 100],
    "dpm++ sde": [900, 790, 700, 590, 500, 395, 300, 170, 100],
    "plms": [981, 961, 961, 941, 921, 901],
    "restart": [900, 700, 500, 300, 600, 500, 300, 100],
    "adaptive, rejected steps": [900, 850, 800, 900, 870, 840, 840, 700],
    "thousand steps": [999, 998, 997, 996],
    "less than a timestep apart": [999.0, 998.6, 998.2],
    "stochastic churn": [901.5, 880.2, 702.3, 690.1],
}


@pytest.mark.parametrize("timesteps", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("layout", [batched, split])
def test_a_call_is_a_noise_level_and_a_plan_may_list_one_several_times(layout: object, timesteps: list[float]) -> None:
    forwards = layout(timesteps)  # type: ignore[operator]
    times = len(forwards) // len(timesteps)
    levels = accumulate(int(k > 0 and t != timesteps[k - 1]) for k, t in enumerate(timesteps))
    indices, _ = run(forwards)
    assert indices == [level for level in levels for _ in range(times)]
    indices, clock = run(forwards, timesteps)
    assert indices == [k for k in range(len(timesteps)) for _ in range(times)]
    assert clock.planned


def test_the_order_of_split_streams_does_not_matter() -> None:
    forwards = [(900.0, (COND,)), (900.0, (UNCOND,)), (700.0, (UNCOND,)), (700.0, (COND,)), (500.0, (COND,))]
    assert run(forwards)[0] == [0, 0, 1, 1, 2]


def test_switching_between_batched_and_split_in_mid_run() -> None:
    forwards = [(900.0, BOTH), (700.0, (UNCOND,)), (700.0, (COND,)), (500.0, BOTH), (300.0, (COND,))]
    indices, clock = run(forwards, [900, 700, 500, 300])
    assert indices == [0, 1, 1, 2, 3]
    assert clock.planned


def test_evaluations_of_one_noise_level_are_turns_of_their_streams() -> None:
    forwards: list[Forward] = [(900.0, BOTH), (900.0, (COND,)), (900.0, (COND,)), (700.0, (COND,))]
    clock = Clock(None)
    ticks = [clock.tick(t, streams) for t, streams in forwards]
    assert [(t.index, t.turn, t.new) for t in ticks] == [(0, 0, True), (0, 1, False), (0, 2, False), (1, 0, True)]


def test_a_tile_more_than_the_plan_has_stays_in_its_call() -> None:
    forwards = [(t, (COND,)) for t in (900.0, 900.0, 700.0, 700.0)]
    indices, clock = run(forwards, [900.0, 700.0])
    assert indices == [0, 0, 1, 1] and clock.planned


def test_several_conds_in_uneven_batches_are_one_call() -> None:
    third = Stream("area", 3)
    forwards = [f for t in EVEN for f in ((t, (COND, third)), (t, (UNCOND,)))]
    assert run(forwards, EVEN)[0] == [k for k in range(5) for _ in range(2)]


def test_a_plan_that_is_left_is_given_up_once() -> None:
    clock = Clock([900.0, 700.0, 500.0])
    ticks = [clock.tick(t, BOTH) for t in (900.0, 800.0, 700.0, 500.0)]
    assert [t.surprise for t in ticks] == [False, True, False, False]
    assert [t.index for t in ticks] == [0, 1, 2, 3]
    assert not clock.planned


def test_more_calls_than_planned_leave_the_plan() -> None:
    clock = Clock([900.0, 700.0])
    assert [clock.tick(t, BOTH).surprise for t in (900.0, 700.0, 500.0)] == [False, False, True]


@pytest.mark.parametrize("empty", [None, [], ()])
def test_without_timesteps_a_run_is_unplanned(empty: list[float] | None) -> None:
    clock = Clock(empty)
    assert not clock.planned
    assert not clock.tick(5.0, BOTH).surprise


def test_timesteps_within_a_thousandth_are_the_planned_ones() -> None:
    clock = Clock([900.0, 700.0])
    assert not clock.tick(900.6, BOTH).surprise
    assert not clock.tick(699.5, BOTH).surprise


@given(st.lists(st.tuples(st.sampled_from(EVEN), st.sampled_from([(COND,), (UNCOND,), BOTH])), max_size=30))
def test_an_index_never_goes_back_and_a_stream_never_repeats_a_turn(forwards: list[Forward]) -> None:
    clock = Clock(None)
    ticks = [clock.tick(t, streams) for t, streams in forwards]
    assert [t.index for t in ticks] == sorted(t.index for t in ticks)
    seen: set[tuple[int, int, object]] = set()
    for tick, (_, streams) in zip(ticks, forwards, strict=True):
        last = max(({turn for i, turn, key in seen if i == tick.index and key in {s.key for s in streams}}), default=-1)
        assert tick.turn == last + 1
        seen |= {(tick.index, tick.turn, s.key) for s in streams}


# Labels: who is who where no host says so


def label(labels: Labels, t: float, conditioning: Tensor | None, rows: int = 2) -> object:
    """The key of one forward's rows."""
    (stream,) = labels.label(t, conditioning, rows)
    assert stream.rows == rows
    return stream.key


def test_a_conditioning_is_recognised_by_identity_in_any_order() -> None:
    labels, cond, uncond = Labels(), ones(2, 7, 8), ones(2, 7, 8)
    first = label(labels, 900, cond), label(labels, 900, uncond)
    assert first[0] != first[1]
    assert (label(labels, 700, uncond), label(labels, 700, cond)) == (first[1], first[0])


def test_conditionings_made_anew_each_call_are_told_apart_by_their_place() -> None:
    labels = Labels()
    keys = [(label(labels, t, ones(2, 7, 8)), label(labels, t, ones(2, 7, 8))) for t in EVEN]
    assert len(set(keys)) == 1
    assert keys[0][0] != keys[0][1]


def test_without_conditioning_the_place_tells() -> None:
    labels = Labels()
    keys = [(label(labels, t, None), label(labels, t, None)) for t in EVEN]
    assert len(set(keys)) == 1
    assert keys[0][0] != keys[0][1]


def test_a_new_conditioning_beside_a_known_one_is_not_taken_for_it() -> None:
    """Prompt editing: the cond is another tensor from some call on, in any order with the uncond that stays."""
    labels, cond, uncond = Labels(), ones(2, 7, 8), ones(2, 7, 8)
    first = label(labels, 900, cond), label(labels, 900, uncond)
    assert (label(labels, 700, ones(2, 7, 8)), label(labels, 700, uncond)) == first
    assert label(labels, 500, uncond) == first[1]
    assert label(labels, 500, ones(2, 7, 8)) not in first


def test_a_timestep_evaluated_twice_by_one_stream_stays_one_stream() -> None:
    labels, cond = Labels(), ones(2, 7, 8)
    assert len({label(labels, t, cond) for t in PATTERNS["heun"]}) == 1
    labels = Labels()
    assert len({label(labels, t, None) for t in PATTERNS["heun"]}) == 1


def test_another_batch_or_context_length_is_another_stream() -> None:
    labels, cond = Labels(), ones(2, 7, 8)
    assert label(labels, 900, cond) != label(labels, 900, ones(4, 7, 8), rows=4)
    assert label(labels, 700, ones(2, 7, 8)) != label(labels, 700, ones(2, 77, 8))
