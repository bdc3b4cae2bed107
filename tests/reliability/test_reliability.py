"""The scripts of this folder at work, on a few runs. Their figures are in docs/reliability.md."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

from skipstone.core.recipe.recipe import Recipe


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reliability_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_parser_lets_a_broken_input_through_with_another_error() -> None:
    found = script("fuzz").fuzz(inputs=660, seed=3)
    assert found["inputs"] == 660 and found["faults"] == []


def test_a_run_after_a_disturbed_one_is_that_of_a_session_without() -> None:
    soak = script("soak")
    for event, at in (("error", 1), ("ctrl-c", 900)):
        plan = soak.Plan("dit", "", 0, 6, False, soak.recipe(random.Random(1)).to_json(), event, at)
        found, wanted = soak.Session().run(plan, disturb=True), soak.Session().run(plan, disturb=False)
        assert found.pop("happened") == event and not wanted.pop("happened")
        assert found == wanted and found["left"] == []


def test_random_plans_hold_recipes_that_can_run() -> None:
    soak, rng = script("soak"), random.Random(5)
    plans = [soak.planned(rng) for _ in range(200)]
    assert {plan.kind for plan in plans} == set(soak.KINDS)
    assert all(Recipe.from_json(plan.recipe).methods for plan in plans)
