"""Settings of token pruning: what is refused and how, the recipe's slot, its JSON form, and DaTo's presets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import skipstone
from skipstone.core.errors import RecipeError
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import BlockPlan, even_timesteps
from skipstone.core.plan.rules import depths as depths_rule
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.presets import DATO, as_recipe, preset, preset_names
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"ratio": 0.8}, r"ratio=0.8 is outside \[0, 0.75\]: one token of each 2x2 cell is kept"),
    ({"ratio": (0.4, 0.9)}, r"ratio=0.9 is outside \[0, 0.75\]"),
    ({"ratio": 0.8, "stride": (2, 1)}, r"ratio=0.8 is outside \[0, 0.5\]: one token of each 2x1 cell"),
    ({"ratio": -0.1}, "ratio=-0.1 is outside"),
    ({"ratio": True}, "ratio=True is outside"),
    ({"ratio": "half"}, "ratio='half' is outside"),
    ({"ratio": ()}, "ratio is an empty list"),
    ({"ratio": float("nan")}, "ratio=nan is outside"),
    ({"stride": (2,)}, "must have two numbers"),
    ({"stride": 2}, "stride must be a list"),
    ({"max_downsample": 3}, "max_downsample=3 is not one of auto, 1, 2, 4, 8"),
    ({"matching": "fuzzy"}, "matching='fuzzy' is not one of dense, local"),
    ({"base": "best"}, "base='best' is not one of dynamics, random"),
    ({"recover_from": "x"}, "recover_from='x' is not one of base, kept"),
    ({"recover_from": "kept", "matching": "local"}, "use it with matching='dense'"),
    ({"normalise": 1}, "normalise=1 is not one of True, False"),
    ({"align_cfg": "yes"}, "align_cfg='yes' is not one of True, False, first"),
    ({"gamma": float("inf")}, "gamma=inf is outside"),
    ({"alpha": -1}, "alpha=-1 is outside"),
    ({"flip_prob": 1.5}, r"flip_prob=1.5 is outside \[0, 1\]"),
    ({"targets": ("attn3",)}, "targets='attn3' is not one of attn1, attn2, ff"),
    ({"targets": "attn1"}, "targets must be a list"),
    ({"checkpoints": "config_9"}, "checkpoints 'config_9' cannot be read"),
    ({"start": 0.8, "end": 0.2}, "start=0.8 is after end=0.2"),
    ({"seed": -1}, "seed=-1 must be a whole number"),
]


@pytest.mark.parametrize(
    ("wrong", "line"), REFUSED, ids=[", ".join(f"{k}={v}" for k, v in w.items()) for w, _ in REFUSED]
)
def test_wrong_settings_are_refused_in_one_line(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line) as error:
        TokenPrune(**wrong)
    assert "\n" not in str(error.value)


def test_pruning_is_a_public_name() -> None:
    assert skipstone.TokenPrune is TokenPrune and "TokenPrune" in skipstone.__all__


@pytest.mark.parametrize(
    "prune",
    [
        TokenPrune(),
        TokenPrune(ratio=(0.3, 0.5), stride=(2, 3), targets=("attn1", "ff"), checkpoints=(0, 4), seed=3),
        TokenPrune(align_cfg="first"),
        TokenPrune(align_cfg=False),
        TokenPrune(ratio=0.7, base="random", gamma=-1, alpha=0, normalise=False, flip_prob=0.5, recover_from="kept"),
    ],
)
def test_recipes_with_pruning_go_through_json_and_back(prune: TokenPrune, tmp_path: Path) -> None:
    recipe = Recipe(prune=prune, skip=BlockSkip(), name="both")
    recipe.save(tmp_path / "r.json")
    assert Recipe.load(tmp_path / "r.json") == recipe
    assert [m["kind"] for m in recipe.to_dict()["methods"]] == ["token_prune", "block_skip"]


def test_a_list_of_ratios_becomes_a_tuple() -> None:
    assert TokenPrune(ratio=[0.1, 0.2]).ratios == (0.1, 0.2)  # type: ignore[arg-type]
    assert TokenPrune(ratio=0.3).ratios == (0.3,)


@pytest.mark.parametrize(
    ("prune", "neutral"),
    [
        (TokenPrune(), False),
        (TokenPrune(ratio=0.0), True),
        (TokenPrune(ratio=(0.0, 0.0)), True),
        (TokenPrune(ratio=(0.0, 0.1)), False),
        (TokenPrune(ratio=0.0, stride=(1, 1)), True),
        (TokenPrune(targets=()), True),
        (TokenPrune(start=1.0), True),
    ],
)
def test_neutral_is_what_changes_nothing(prune: TokenPrune, neutral: bool) -> None:
    assert prune.neutral is neutral and Recipe(prune=prune).neutral is neutral


def test_merging_and_pruning_one_module_is_refused() -> None:
    with pytest.raises(RecipeError, match="both act on attn1, ff: keep one of them, or give them different targets"):
        Recipe(merge=TokenMerge(targets=("ff", "attn1")), prune=TokenPrune(targets=("attn1", "ff", "attn2")))
    Recipe(merge=TokenMerge(), prune=TokenPrune(targets=("ff",)))
    Recipe(merge=TokenMerge(threshold=1.0), prune=TokenPrune())
    Recipe(merge=TokenMerge(), prune=TokenPrune(ratio=0.0))


def test_a_recipe_is_made_of_methods_in_any_order() -> None:
    prune, skip = TokenPrune(), BlockSkip()
    assert Recipe.of([skip, prune], "x") == Recipe(prune=prune, skip=skip, name="x")
    assert as_recipe(prune) == Recipe(prune=prune)
    with pytest.raises(RecipeError, match="two methods of kind 'token_prune': keep one"):
        Recipe.of([prune, prune])
    with pytest.raises(RecipeError, match="two methods of kind 'token_prune': keep one"):
        Recipe.from_dict({"skipstone": 1, "methods": [{"kind": "token_prune"}] * 2})


# presets

# The published lists, noted from the released code apart from ours: one code for each call from 1 on.
PUBLISHED = {
    "dato_coco": "1,1,1,1,0,1,1,0,1,1,0,1,1,12,1,0,0,0,1,1,0,1,0,12,0,0,0,0,0,0,1,0,1,0,1,12,0,0,0,0,0,0,1,0,1,12,0,1,0,1",
    "dato_b": "0,1,0,0,0,0,0,0,1,1,0,12,0,1,1,0,12,1,1,0,0,12,0,1,0,0,0,1,1,1,0,0,1,0,1,0,1,1,1,1,1,12,0,0,1,0,0,1,1,1",
    "dato_c": "0,1,1,1,1,1,11,1,1,1,1,1,1,1,0,0,11,1,1,1,0,11,1,0,1,1,1,1,1,11,0,0,1,1,1,1,1,1,1,1,11,1,1,1,1,1,1,1,1,1",
    "dato_d": "1,1,1,1,1,1,1,1,1,1,1,12,12,1,1,1,1,1,1,12,1,1,1,1,1,1,1,1,1,1,1,1,1,1,0,12,1,12,1,1,1,12,1,1,1,1,1,1,12,1",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schedules_are_the_published_codes_one_by_one(name: str) -> None:
    skip = preset(name).skip
    assert skip and ",".join(map(str, skip.depths)) == PUBLISHED[name]
    assert preset("dato_reference").skip == preset("dato_coco").skip


COUNTS = {
    "dato_coco": ((0, 14, 24, 36, 46), 21, 25),
    "dato_b": ((0, 12, 17, 22, 42), 22, 24),
    "dato_c": ((0, 7, 17, 22, 30, 41), 38, 7),
    "dato_d": ((0, 12, 13, 20, 36, 38, 42, 49), 42, 1),
    "dato_reference": ((0, 14, 24, 36, 46), 21, 25),
}


@pytest.mark.parametrize("name", COUNTS)
def test_published_schedules_have_their_full_shallow_and_repeated_calls(name: str) -> None:
    full, shallow, repeated = COUNTS[name]
    recipe = preset(name)
    assert recipe.skip and recipe.prune and len(recipe.skip.depths) == 50
    graph = recognise(tiny.ldm_unet().model).graph(tiny.ldm_unet().model)
    run = depths_rule.depths(recipe.skip.depths, graph)
    assert tuple(np.flatnonzero(run.all(axis=1))) == full
    assert int((~run.any(axis=1)).sum()) == repeated
    assert int((run.any(axis=1) & ~run.all(axis=1)).sum()) == shallow


def test_the_guide_says_how_many_calls_dato_coco_repeats_at_other_lengths() -> None:
    skip, case = preset("dato_coco").skip, tiny.ldm_unet()
    family = recognise(case.model)
    graph = family.graph(case.model)
    runs = [
        BlockPlan(skip, graph, family.name, Horizon(even_timesteps(calls))).planned_rows() for calls in (50, 30, 20)
    ]  # type: ignore[arg-type]
    repeated = [int((~run.any(axis=1)).sum()) for run in runs]
    guide = " ".join((Path(skipstone.__file__).parent / "docs" / "user_guide.md").read_text().split())
    assert [int(run.all(axis=1).sum()) for run in runs] == [5, 5, 5]
    assert "it repeats {} of 50 evenly spaced calls, {} of 30 and {} of 20".format(*repeated) in guide


def test_the_gentle_preset_forecasts_half_of_twenty_calls_and_prunes_nothing() -> None:
    recipe = preset("dato_gentle")
    assert recipe.skip and recipe.skip.forecast and recipe.prune and recipe.prune.neutral
    depths = recipe.skip.depths
    assert (len(depths), depths.count(12), depths.count(1), depths.count(0)) == (19, 8, 1, 10)


def test_published_presets_are_run_as_published() -> None:
    for name in ("dato_coco", "dato_b", "dato_c", "dato_d"):
        recipe = preset(name)
        assert recipe.prune == TokenPrune(ratio=0.4) and recipe.name == name
        assert recipe.skip == BlockSkip(rule="depths", depths=recipe.skip.depths)  # type: ignore[union-attr]
        assert not recipe.skip.last_full  # type: ignore[union-attr]


def test_the_reference_preset_is_the_released_code() -> None:
    ours, released = preset("dato_coco"), preset("dato_reference")
    assert released.skip == ours.skip
    assert released.prune == dataclasses.replace(
        TokenPrune(ratio=0.4), normalise=False, flip_prob=0.5, recover_from="kept", max_downsample=1, align_cfg="first"
    )


def test_presets_are_listed_and_go_through_json() -> None:
    assert set(DATO) <= set(preset_names())
    for name in DATO:
        assert Recipe.from_json(preset(name).to_json()) == preset(name) == as_recipe(name)
