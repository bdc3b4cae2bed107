"""The search itself, on problems whose answer is known: fronts, elitism, bounds, seeds, resuming, sharing."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.core.calibrate.search import crossover, study
from skipstone.core.calibrate.search.crossover import ScheduleCrossover
from skipstone.core.calibrate.search.front import dominates, front, spread
from skipstone.core.calibrate.search.space import Space, Values
from skipstone.core.calibrate.search.study import Budget, Found, Goal, pareto, run_study
from skipstone.core.errors import RecipeError
from skipstone.core.recipe.recipe import Recipe

pytest.importorskip("optuna")

LEVELS = tuple(range(5))
NAMES = tuple(f"x{i:02}" for i in range(12))
START = {"middling": dict.fromkeys(NAMES, 2)}
SPACE = Space(dict.fromkeys(NAMES, LEVELS), (NAMES[1:],), lambda values: Recipe(), START)
KNOWN_FRONT = [(1 - (k / 4) ** 0.5, k / 4) for k in LEVELS]


def zdt1(values: Values) -> tuple[float, float]:
    """ZDT1 on a grid of 5 levels; its front has x1 = ... = 0, one point per level of x0."""
    cost = values["x00"] / 4
    g = 1 + 9 * sum(values[name] for name in NAMES[1:] if name in values) / 4 / 11
    return g * (1 - (cost / g) ** 0.5), cost


FEW = NAMES[:4]
SMALL = Space(dict.fromkeys(FEW, LEVELS), (FEW[1:],), lambda values: Recipe(), {"middling": dict.fromkeys(FEW, 2)})
"""For tests on disk, which waits at every variable."""

GOAL = Goal(zdt1, {"problem": "zdt1"})


def points(found: list[Found]) -> list[tuple[float, ...]]:
    """All points in the order they were found."""
    return [f.point for f in found]


few = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(few)
def test_a_front_is_what_none_dominates_and_keeps_the_best_of_both(some: list[tuple[int, int]]) -> None:
    kept = [some[i] for i in front(some)]
    assert set(kept) == {p for p in some if not any(dominates(q, p) for q in some)}
    assert len(set(kept)) == len(kept)
    assert [p[1] for p in kept] == sorted(p[1] for p in kept)
    for axis in (0, 1):
        assert min(p[axis] for p in kept) == min(p[axis] for p in some)


def test_equal_points_do_not_dominate_each_other() -> None:
    assert not dominates((1, 1), (1, 1))
    assert dominates((1, 0), (1, 1)) and not dominates((1, 1), (1, 0))
    assert not dominates((0, 2), (1, 1)) and not dominates((1, 1), (0, 2))


def test_chosen_points_are_spread_over_the_cost_and_hold_both_ends() -> None:
    line = [(1.0, cost / 100) for cost in (0, 1, 2, 3, 50, 98, 99, 100)]
    assert spread(line, 3) == [0, 4, 7]
    assert spread(line[:2], 3) == [0, 1]
    assert spread(line, 1) == [0]


def test_the_known_front_is_found() -> None:
    found = run_study(SPACE, GOAL, Budget(500, 20))
    assert len(found) == 500
    assert points(pareto(found)) == [pytest.approx(p) for p in KNOWN_FRONT]


def test_a_search_repeats_by_its_seed() -> None:
    first, again, other = (run_study(SPACE, GOAL, Budget(90, 16, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_values_stay_within_their_levels_and_none_comes_twice() -> None:
    found = run_study(SPACE, GOAL, Budget(120, 16))
    assert all(set(f.values) == set(NAMES) and set(f.values.values()) <= set(LEVELS) for f in found)
    assert len({SPACE.key(f.values) for f in found}) == len(found)


def test_a_small_space_is_exhausted_without_end() -> None:
    tiny = Space({"x00": LEVELS[:3]}, (), lambda values: Recipe())
    found = run_study(tiny, Goal(lambda v: (-v["x00"], v["x00"]), {}), Budget(8, 4))
    assert len(found) == 8
    assert {f.values["x00"] for f in found} == {0, 1, 2}


def test_starts_come_first_and_what_is_not_allowed_is_never_tried() -> None:
    def cheap(values: Values) -> bool:
        return values["x00"] <= 2

    found = run_study(SPACE, Goal(zdt1, {}, cheap), Budget(80, 12))
    assert found[0].values == START["middling"]
    assert all(cheap(f.values) for f in found)
    dear = Goal(zdt1, {}, lambda values: values["x00"] < 2)
    assert run_study(SPACE, dear, Budget(1, 12))[0].values != START["middling"]


def test_the_parents_hold_the_best_of_either_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[float, ...]]] = []
    child = ScheduleCrossover.__call__

    def recorded(self: ScheduleCrossover, study: Any, space: Any, parents: list[Any]) -> dict[str, Any]:
        seen.append([tuple(t.values) for t in parents])
        return child(self, study, space, parents)

    monkeypatch.setattr(ScheduleCrossover, "__call__", recorded)
    found = points(run_study(SPACE, GOAL, Budget(160, 16)))
    assert len(seen) == 160
    for generation in range(1, 10):
        parents = seen[generation * 16]
        before = found[: generation * 16]
        assert len(parents) == 16
        for axis in (0, 1):
            assert min(p[axis] for p in parents) == min(p[axis] for p in before)


def test_of_two_parents_the_one_that_dominates_wins() -> None:
    import optuna

    good, bad = (
        optuna.trial.create_trial(values=values, params={}, distributions={}) for values in ([0.1, 0.2], [0.3, 0.2])
    )
    rng = random.Random(0)
    wins = sum(crossover._winner(rng, [good, bad]) is good for _ in range(400))
    assert 270 < wins < 330


def stopping(after: int) -> Callable[[Values], tuple[float, float]]:
    """ZDT1 that is stopped by Ctrl-C in one evaluation."""
    left = [after]

    def objective(values: Values) -> tuple[float, float]:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return zdt1(values)

    return objective


@pytest.mark.parametrize("after", [3, 6, 15])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(after: int, tmp_path: Path) -> None:
    journal, budget = str(tmp_path / "deep" / "search.journal"), Budget(20, 6, 1)
    with pytest.raises(KeyboardInterrupt):
        run_study(SMALL, Goal(stopping(after), GOAL.settings), budget, storage=journal)
    ahead = run_study(SMALL, GOAL, budget)
    resumed = run_study(SMALL, GOAL, budget, storage=journal)
    assert {SMALL.key(f.values) for f in resumed} == {SMALL.key(f.values) for f in ahead}
    assert sorted(points(resumed)) == sorted(points(ahead))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_more_trials_and_other_workers_add_to_a_study(kind: str, tmp_path: Path) -> None:
    storage = str(tmp_path / "s.journal") if kind == "journal" else f"sqlite:///{tmp_path / 's.db'}"
    first = run_study(SMALL, GOAL, Budget(6, 4, 0), storage=storage)
    both = run_study(SMALL, GOAL, Budget(11, 4, 1), storage=storage)
    assert both[:6] == first and len(both) == 11
    assert len({SMALL.key(f.values) for f in both}) == 11
    assert run_study(SMALL, Goal(stopping(0), GOAL.settings), Budget(11, 4, 2), storage=storage) == both


def test_a_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    storage = str(tmp_path / "s.journal")
    run_study(SMALL, GOAL, Budget(2, 2), "mine", storage)
    with pytest.raises(RecipeError, match="study 'mine' has problem='zdt1', not 'other'"):
        run_study(SMALL, Goal(zdt1, {"problem": "other"}), Budget(3, 2), "mine", storage)
    assert len(run_study(SMALL, Goal(zdt1, {"problem": "other"}), Budget(3, 2), "yours", storage)) == 3


@pytest.mark.parametrize("kept", [0.1, 0.2, 0.5, 0.9, 0.97])
def test_a_journal_that_was_cut_short_anywhere_goes_on(kept: float, tmp_path: Path) -> None:
    """By a full disk or a kill, at the start too, where the settings are written one by one."""
    goal = Goal(zdt1, {"problem": "zdt1", "steps": 20, "levels": [0, 1]})
    journal = tmp_path / "s.journal"
    whole = run_study(SMALL, goal, Budget(4, 4), storage=str(journal))
    text = journal.read_bytes()
    journal.write_bytes(text[: int(kept * len(text))])
    resumed = run_study(SMALL, goal, Budget(4, 4), storage=str(journal))
    assert run_study(SMALL, goal, Budget(4, 4), storage=str(journal)) == resumed and len(resumed) == len(whole)


@pytest.mark.parametrize("lines", range(5))
def test_a_search_that_was_stopped_before_it_had_all_its_settings_goes_on(lines: int, tmp_path: Path) -> None:
    goal = Goal(zdt1, {"problem": "zdt1", "steps": 20, "levels": [0, 1]})
    journal = tmp_path / "s.journal"
    run_study(SMALL, goal, Budget(4, 4), storage=str(journal))
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:lines]))
    assert len(run_study(SMALL, goal, Budget(4, 4), storage=str(journal))) == 4


def test_a_broken_journal_is_refused_in_one_line(tmp_path: Path) -> None:
    journal = tmp_path / "s.journal"
    run_study(SMALL, GOAL, Budget(4, 4), storage=str(journal))
    text = journal.read_bytes()
    journal.write_bytes(text[:200] + b"}{" + text[202:])
    with pytest.raises(RecipeError, match=r"cannot go on .*: delete that file, or name another --out") as refused:
        run_study(SMALL, GOAL, Budget(8, 4), storage=str(journal))
    assert "\n" not in str(refused.value)


def test_the_bar_is_told_after_each_trial() -> None:
    told: list[tuple[int, int]] = []
    run_study(SPACE, GOAL, Budget(5, 4), on_trial=lambda done, found: told.append((done, len(found))))
    assert told == [(n, n) for n in range(1, 6)]


def test_no_global_generator_and_no_logging_level_is_touched() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    before = random.getstate(), np.random.get_state()[1].tolist(), optuna.logging.get_verbosity()
    run_study(SPACE, GOAL, Budget(40, 8))
    assert (random.getstate(), np.random.get_state()[1].tolist(), optuna.logging.get_verbosity()) == before


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"pip install 'skipstone\[search\]'"):
        run_study(SPACE, GOAL, Budget(1, 2))


def schedule_error(values: Values) -> tuple[float, float]:
    """A modelled run of 30 calls: staleness grows until a level runs anew, unevenly over the run."""
    drift = [0.3 + abs(2 * k / 30 - 1) ** 2 + 0.3 * ((k * 7) % 5) / 5 for k in range(30)]
    deep = shallow = error = 0.0
    cost = 1.0
    for k, name in enumerate(SCHEDULE.choices, start=1):
        deep, shallow = deep + drift[k], shallow + drift[k]
        code = values[name]
        deep, shallow = 0.0 if code == 12 else deep, 0.0 if code else shallow
        cost += {0: 0.01, 1: 0.18, 12: 1.0}[code]
        error += (0.25 * deep + shallow) ** 2 * (0.3 + k / 30)
    return error**0.5, cost / 30


CALLS = tuple(f"d{k:02}" for k in range(1, 30))
SCHEDULE = Space(dict.fromkeys(CALLS, (0, 1, 12)), (CALLS,), lambda values: Recipe())


def area(found: list[Found], worst: float = 20.0) -> float:
    """What the front dominates below `worst` and cost 1."""
    steps = [(c, e) for e, c in points(pareto(found)) if e < worst]
    ends = [c for c, _ in steps[1:]] + [1.0]
    return sum((worst - e) * (end - c) for (c, e), end in zip(steps, ends, strict=True))


def test_our_children_find_more_of_a_schedule_s_front_than_optuna_s_own() -> None:
    goal = Goal(schedule_error, {})
    ours, plain = (
        sum(area(run_study(SCHEDULE, goal, Budget(200, 24, seed, plain))) for seed in range(4)) / 4
        for plain in (False, True)
    )
    assert ours > plain + 0.1


def test_the_storage_is_any_that_optuna_takes() -> None:
    assert study._storage(None) is None
    assert study._storage("sqlite:///x.db") == "sqlite:///x.db"
