"""Recipes: what they accept, refuse and write to JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.core.errors import RecipeError, SkipstoneError
from skipstone.core.recipe.checkpoint_lists import CHECKPOINT_PRESETS
from skipstone.core.recipe.presets import as_recipe, preset, preset_names
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import MAX_DOWNSAMPLES, TokenMerge

unit = st.floats(0, 1)
merges = st.builds(
    lambda window, **rest: TokenMerge(start=min(window), end=max(window), **rest),
    window=st.tuples(unit, unit),
    threshold=st.floats(-1, 1),
    checkpoints=st.one_of(st.sampled_from(list(CHECKPOINT_PRESETS)), st.lists(st.integers(0, 2000), max_size=20)),
    stride=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    max_downsample=st.sampled_from(["auto", *MAX_DOWNSAMPLES]),
    destination=st.sampled_from(["top_left", "random"]),
    batch=st.sampled_from(["per_sample", "max"]),
    targets=st.lists(st.sampled_from(["attn1", "attn2", "ff"]), unique=True),
    matching=st.sampled_from(["dense", "local"]),
    proportional=st.booleans(),
    bucket=st.one_of(st.just("auto"), st.integers(1, 4096)),
    absolute=st.booleans(),
    index_base=st.sampled_from([0, 1]),
    seed=st.integers(0, 2**63),
)


@given(merge=st.none() | merges, name=st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20))
def test_json_round_trip_gives_the_same_recipe(merge: TokenMerge | None, name: str) -> None:
    recipe = Recipe(merge=merge, name=name)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert as_recipe(recipe.to_dict()) == recipe


def test_json_form_is_plain_and_versioned() -> None:
    data = json.loads(Recipe(TokenMerge(checkpoints=[3, 0]), name="mine").to_json())
    assert data["skipstone"] == 1
    assert data["name"] == "mine"
    assert data["methods"][0]["kind"] == "token_merge"
    assert data["methods"][0]["checkpoints"] == [0, 3]
    assert data["methods"][0]["stride"] == [2, 2]


def test_file_round_trip(tmp_path: Path) -> None:
    recipe = preset("ca_tome:config_4")
    recipe.save(tmp_path / "r.json")
    assert Recipe.load(tmp_path / "r.json") == recipe
    assert as_recipe(str(tmp_path / "r.json")) == as_recipe(tmp_path / "r.json") == recipe


WRONG_FIELDS = [
    ({"threshold": 1.5}, "threshold", "[-1, 1]"),
    ({"threshold": -1.01}, "threshold", "[-1, 1]"),
    ({"threshold": float("nan")}, "threshold", "[-1, 1]"),
    ({"threshold": "0.7"}, "threshold", "[-1, 1]"),
    ({"threshold": True}, "threshold", "[-1, 1]"),
    ({"threshold": None}, "threshold", "[-1, 1]"),
    ({"checkpoints": "0, x"}, "checkpoints", "config_3"),
    ({"checkpoints": "config_9"}, "checkpoints", "config_3"),
    ({"checkpoints": ""}, "checkpoints", "config_3"),
    ({"checkpoints": "1.5"}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": "-1"}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": "9" * 5000}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": [-1]}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": [0.5]}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": [True]}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": [0, "1"]}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": [[0]]}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": None}, "checkpoints", "0, 8, 11"),
    ({"checkpoints": 7}, "checkpoints", "0, 8, 11"),
    ({"stride": 2}, "stride", "list"),
    ({"stride": [2]}, "stride", "[2, 2]"),
    ({"stride": [2, 2, 2]}, "stride", "[2, 2]"),
    ({"stride": [2, 0]}, "stride", "from 1 on"),
    ({"stride": [2, 2.0]}, "stride", "from 1 on"),
    ({"max_downsample": 3}, "max_downsample", "auto, 1, 2, 4, 8"),
    ({"max_downsample": 2.0}, "max_downsample", "auto, 1, 2, 4, 8"),
    ({"max_downsample": True}, "max_downsample", "auto, 1, 2, 4, 8"),
    ({"destination": "center"}, "destination", "top_left, random"),
    ({"batch": "min"}, "batch", "per_sample, max"),
    ({"matching": "fast"}, "matching", "dense, local"),
    ({"targets": "attn1"}, "targets", "list"),
    ({"targets": ["attn3"]}, "targets", "attn1, attn2, ff"),
    ({"targets": [["attn1"]]}, "targets", "attn1, attn2, ff"),
    ({"proportional": 1}, "proportional", "True, False"),
    ({"absolute": "no"}, "absolute", "True, False"),
    ({"start": -0.1}, "start", "0 is the noisiest"),
    ({"end": 1.1}, "end", "0 is the noisiest"),
    ({"end": float("nan")}, "end", "0 is the noisiest"),
    ({"start": 0.6, "end": 0.5}, "start", "start <= end"),
    ({"frames": 0}, "frames", "pairs of frames"),
    ({"frames": 17}, "frames", "pairs of frames"),
    ({"bucket": 0}, "bucket", "auto"),
    ({"bucket": 1.5}, "bucket", "auto"),
    ({"bucket": "big"}, "bucket", "auto"),
    ({"index_base": 2}, "index_base", "0, 1"),
    ({"index_base": False}, "index_base", "0, 1"),
    ({"seed": -1}, "seed", "from 0 on"),
    ({"seed": 0.5}, "seed", "from 0 on"),
]


@pytest.mark.parametrize(("fields", "name", "remedy"), WRONG_FIELDS, ids=lambda v: str(v)[:40])
def test_a_wrong_field_is_refused_by_one_line_with_name_and_remedy(fields: dict, name: str, remedy: str) -> None:
    with pytest.raises(RecipeError) as built:
        TokenMerge(**fields)
    with pytest.raises(RecipeError) as read:
        Recipe.from_dict({"skipstone": 1, "methods": [{"kind": "token_merge", **fields}]})
    for message in (str(built.value), str(read.value)):
        assert name in message
        assert remedy in message
        assert "\n" not in message
    assert issubclass(RecipeError, SkipstoneError)


def test_every_field_has_a_refused_value_above() -> None:
    assert {f.name for f in dataclasses.fields(TokenMerge)} == {
        name for fields, _, _ in WRONG_FIELDS for name in fields
    }


METHOD = {"kind": "token_merge"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "not a Skipstone recipe"),
        ({}, "not a Skipstone recipe"),
        ({"skipstone": 2}, "update Skipstone"),
        ({"skipstone": "1"}, "update Skipstone"),
        ({"skipstone": 1, "method": []}, "unknown key 'method'"),
        ({"skipstone": 1, "methods": {}}, "must be a list"),
        ({"skipstone": 1, "methods": ["token_merge"]}, "must be a list"),
        ({"skipstone": 1, "methods": [{}]}, "unknown method kind None"),
        ({"skipstone": 1, "methods": [{"kind": "tome"}]}, "known kinds are token_merge"),
        ({"skipstone": 1, "methods": [{"kind": ["token_merge"]}]}, "known kinds are token_merge"),
        ({"skipstone": 1, "methods": [{**METHOD, "treshold": 0.7}]}, "unknown key 'treshold'"),
        ({"skipstone": 1, "methods": [METHOD, METHOD]}, "keep one"),
    ],
    ids=lambda v: str(v)[:60],
)
def test_a_wrong_recipe_is_refused_in_one_line(data: Any, says: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.from_json(json.dumps(data))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", '{"skipstone": 1', "[" * 100_000, '{"skipstone": ' + "1" * 5000 + "}"], ids=len
)
def test_text_that_is_no_json_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(RecipeError, match="not JSON") as error:
        Recipe.from_json(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["nowhere/r.json", "zero\0byte.json"])
def test_a_file_that_cannot_be_read_is_refused(path: str) -> None:
    with pytest.raises(RecipeError, match="give the path of a JSON file"):
        as_recipe(path)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="give the path of a JSON file"):
        Recipe.load(tmp_path / "r.json")


@pytest.mark.parametrize("value", [3, None, b"ca_tome", "ca_tom", "balanced:config_9", "ca_tome:config_9"])
def test_what_is_no_recipe_is_refused(value: Any) -> None:
    with pytest.raises(RecipeError):
        as_recipe(value)


def test_presets() -> None:
    for name in preset_names():
        assert not preset(name).neutral
        assert preset(name).name == name
    paper, reference = preset("ca_tome").merge, preset("reference").merge
    assert paper is not None and reference is not None
    assert (paper.threshold, paper.checkpoints, paper.destination, paper.batch) == (
        0.7, "config_3", "top_left", "per_sample",
    )  # fmt: skip
    assert (reference.destination, reference.batch, reference.bucket) == ("random", "max", 1)
    assert (reference.index_base, reference.max_downsample, reference.absolute) == (1, 1, True)
    exact = preset("ca_tome_exact").merge
    assert exact is not None and dataclasses.replace(paper, bucket=1) == exact
    merge = preset("ca_tome:config_1").merge
    assert merge is not None and merge.checkpoints == "config_1"


@pytest.mark.parametrize(
    "fields", [{"threshold": 1.0}, {"threshold": 1}, {"targets": ()}, {"start": 0.4, "end": 0.4}, {"stride": (1, 1)}]
)
def test_neutral_settings_know_that_they_are(fields: dict[str, Any]) -> None:
    assert TokenMerge(**fields).neutral
    assert as_recipe(TokenMerge(**fields)).neutral


@pytest.mark.parametrize("fields", [{}, {"threshold": 0.999}, {"start": 0.4, "end": 0.5}, {"stride": (1, 2)}])
def test_other_settings_are_not_neutral(fields: dict[str, Any]) -> None:
    assert not TokenMerge(**fields).neutral


def test_a_recipe_is_frozen_and_hashable() -> None:
    merge = TokenMerge(stride=[2, 2], targets=["attn1"], checkpoints=[4, 0, 4])
    assert merge.checkpoints == (0, 4)
    assert len({merge, TokenMerge(checkpoints="0,4")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        merge.threshold = 0.1  # type: ignore[misc]
