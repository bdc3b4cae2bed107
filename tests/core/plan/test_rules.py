"""Rules place full calls where the software they are named after does."""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from skipstone.core.errors import RecipeError
from skipstone.core.models import recognise
from skipstone.core.plan.rules import RULES
from skipstone.core.plan.rules import deepcache as deepcache_rule
from skipstone.core.recipe.block_skip import RULES as READ_BY


@pytest.fixture(scope="module")
def released() -> Callable[[int, int, int, float], tuple[list[int], float]]:
    """`sample_from_quad_center` of the `deepcache` package, whose module needs an older diffusers to be imported."""
    package = find_spec("DeepCache")
    if package is None or package.origin is None:
        pytest.skip("the deepcache package is not installed")
    source = (Path(package.origin).parent / "sd" / "pipeline_stable_diffusion.py").read_text()
    wanted = [n for n in ast.parse(source).body if getattr(n, "name", "") == "sample_from_quad_center"]
    space: dict[str, Any] = {"np": np}
    exec(compile(ast.Module(wanted, []), "deepcache", "exec"), space)
    return space["sample_from_quad_center"]


def test_quad_is_deepcaches_own_spacing(released: Callable[..., Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        for calls in range(2, 61):
            for every in range(2, calls):
                count = -(-calls // every)
                theirs = [int(k) for k in released(calls, count, calls * 3 // 10, 1.4)[0]]
                assert deepcache_rule.quad_calls(calls, count) == theirs, (calls, every)


def test_quad_of_50_calls_and_10_full_ones() -> None:
    assert deepcache_rule.quad_calls(50, 10) == [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]


def test_quad_takes_every_number_of_calls_and_refuses_what_cannot_be_placed() -> None:
    for calls in (1, 2, 3, 999):
        for every in (2, 3, 500, 999):
            placed = deepcache_rule.quad_calls(calls, -(-calls // every))
            assert (
                placed == sorted(set(placed))
                and placed[0] == 0
                and placed[-1] < calls
                and len(placed) == -(-calls // every)
            )
    with pytest.raises(RecipeError, match="cannot place 9 full calls among 3"):
        deepcache_rule.quad_calls(3, 9)


def test_the_deepcache_rule_runs_in_full_at_the_calls_of_its_mode() -> None:
    case = tiny.BUILDERS["diffusers"]()
    graph = recognise(case.model).graph(case.model)
    for every, mode, full in [
        (5, "quad", deepcache_rule.quad_calls(50, 10)),
        (5, "uniform", list(range(0, 50, 5))),
        (1, "quad", list(range(50))),
        (50, "quad", [0]),
        (99, "quad", [0]),
    ]:
        rows = deepcache_rule.deepcache(50, graph, every, mode=mode)
        assert np.flatnonzero(rows.all(axis=1)).tolist() == full, (every, mode)


def test_a_rule_is_made_of_the_settings_that_its_name_lists() -> None:
    assert list(RULES) == list(READ_BY)
    for name, rule in RULES.items():
        assert {f.name for f in dataclasses.fields(rule)} == set(READ_BY[name]), name
