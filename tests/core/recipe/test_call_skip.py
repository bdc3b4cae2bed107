"""Settings of call skipping, and a number such as "2x" as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skipstone.core.errors import RecipeError
from skipstone.core.recipe.auto import Auto
from skipstone.core.recipe.call_skip import CallSkip, parse_keys
from skipstone.core.recipe.presets import as_recipe
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge


@pytest.mark.parametrize(
    ("settings", "neutral"),
    [
        ({"speedup": 1.0}, True),
        ({"every": 1}, True),
        ({"rule": "easycache", "threshold": 0.0}, True),
        ({}, False),
        ({"calls": 20}, False),
        ({"speedup": 1.0, "every": 2}, False),
        ({"speedup": 1.0, "keys": (0, 3)}, False),
        ({"speedup": 1.0, "rule": "easycache"}, False),
        ({"speedup": 1.0, "profile": "mine.safetensors"}, False),
    ],
    ids=str,
)
def test_neutral_settings(settings: dict[str, Any], neutral: bool) -> None:
    assert CallSkip(**settings).neutral is neutral


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"speedup": 0.5}, "speedup"),
        ({"speedup": float("nan")}, "speedup"),
        ({"speedup": "fast"}, "speedup"),
        ({"calls": -1}, "calls"),
        ({"calls": 2.5}, "calls"),
        ({"calls": True}, "calls"),
        ({"every": 2, "calls": 3}, "calls and every both choose"),
        ({"keys": (1, 2)}, "begin with 0"),
        ({"keys": (0, 3, 2)}, "must rise"),
        ({"keys": (0, 2, 2)}, "must rise"),
        ({"space": "y"}, "space"),
        ({"predictor": "magic"}, "predictor"),
        ({"rule": "sometimes"}, "rule"),
        ({"warmup": 0}, "warmup"),
        ({"profile": 3}, "profile"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as refusal:
        CallSkip(**settings)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


def test_keys_from_text() -> None:
    assert parse_keys("0, 1;5 9") == (0, 1, 5, 9) and parse_keys("") == ()
    for text in ("0, x", "-1", "1.5", "9" * 6):
        with pytest.raises(RecipeError, match="cannot be read"):
            parse_keys(text)


def test_a_recipe_with_it_is_the_same_after_json_and_beside_other_methods(tmp_path: Path) -> None:
    calls = CallSkip(keys=(0, 3, 7), space="x0", predictor="hermite", max_gap=3)
    recipe = Recipe(merge=TokenMerge(), calls=calls, name="both")
    assert Recipe.from_json(recipe.to_json()) == recipe and recipe.to_dict()["methods"][-1]["kind"] == "call_skip"
    assert recipe.replace(calls=None).methods == (TokenMerge(),) and Recipe.of([calls]).calls == calls
    (tmp_path / "mine.safetensors").write_bytes(b"")
    Recipe(calls=CallSkip(profile="mine.safetensors")).save(tmp_path / "r.json")
    loaded = Recipe.load(tmp_path / "r.json").calls
    assert loaded is not None and loaded.profile == str(tmp_path / "mine.safetensors")


@pytest.mark.parametrize(("text", "speedup"), [("2x", 2.0), ("1.8x", 1.8), (" 3 × ", 3.0), ("1x", 1.0)])
def test_a_speed_up_alone_is_a_recipe(text: str, speedup: float) -> None:
    recipe = as_recipe(text)
    assert recipe.methods == (Auto(speedup=speedup),) and recipe.name == text.strip()


@pytest.mark.parametrize("text", ["x", "2", "-2x", "0.5x", "1e9x", "200x", "2xx", "٢x", "2x 3x"])
def test_other_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(RecipeError) as refusal:
        as_recipe(text)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300
