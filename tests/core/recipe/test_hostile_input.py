"""Whatever a recipe or mask holds, it is accepted or refused by a SkipstoneError of one line under 300 characters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from skipstone.core.errors import MaskError, SkipstoneError, shown
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.checkpoint_lists import parse_checkpoints
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.presets import as_recipe
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.core.recipe.validate import MOST_CALLS

DEEP: Any = []
for _ in range(3000):
    DEEP = [DEEP]

METHODS = (TokenMerge, TokenPrune, BlockSkip)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 5).map(lambda i: (10**9, 2**64, -(2**70), 10**400, 10**5000, -(10**5000))[i]),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.sampled_from(["", "\ud800", "\0", "a\nb", "\u2028", "x" * 5000, "config_3", "every", "auto", "<img src=x>"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
) | st.integers(0, 1).map(lambda i: ([0] * 20_000, DEEP)[i])
objects = values | st.sampled_from(
    [object(), b"\xff", np.zeros(3), torch.zeros(2), {1}, range(10**12), float, 1j, np.float64(0.5)]
)


def refusal(call: Callable[[], Any]) -> str:
    """ "" where the call is accepted, else its message, which must be one printable line under 300 characters."""
    try:
        call()
    except SkipstoneError as error:
        message = str(error)
        assert message.isprintable() and len(message) < 300, message
        message.encode("utf-8")
        return message
    return ""


def fields_of(cls: type[Any], some: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = [f.name for f in dataclasses.fields(cls)]
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=6), some, max_size=3)


@pytest.mark.parametrize("cls", METHODS)
@settings(max_examples=150)
@given(data=st.data())
def test_any_field_of_a_method_is_accepted_or_refused_in_one_line(cls: type[Any], data: st.DataObject) -> None:
    fields = {k: v for k, v in data.draw(fields_of(cls, objects)).items() if k in cls.__dataclass_fields__}
    refusal(lambda: Recipe.of([cls(**fields)]).to_json())


@settings(max_examples=150)
@given(data=st.data())
def test_any_json_is_a_recipe_or_refused_in_one_line(data: st.DataObject) -> None:
    cls = data.draw(st.sampled_from(METHODS))
    method = {"kind": cls.kind, **data.draw(fields_of(cls, values))}
    whole = {"skipstone": 1, "methods": [method], **data.draw(st.dictionaries(st.just("name"), values, max_size=1))}
    for given_value in (whole, method, data.draw(values), {**whole, "methods": data.draw(values)}):
        if not refusal(lambda v=given_value: as_recipe(v)) and isinstance(given_value, dict):
            assert Recipe.from_json(Recipe.from_dict(given_value).to_json()) == Recipe.from_dict(given_value)


@given(text=st.text() | st.sampled_from(['{"skipstone":1e400}', '{"skipstone":' + "9" * 5000 + "}", '{"a":' * 9999]))
def test_any_text_is_a_recipe_or_refused_in_one_line(text: str) -> None:
    refusal(lambda: Recipe.from_json(text))
    refusal(lambda: as_recipe(text.replace(".json", "")))
    refusal(lambda: parse_checkpoints(text))


@pytest.mark.parametrize(
    "fields",
    [
        {"every": 10**9}, {"branch": 10**9}, {"depths": [1000]}, {"depths": [0] * (MOST_CALLS + 1)}, {"mask": 5},
        {"mask": [1]}, {"mask": None}, {"mask": "\ud800"}, {"mask": "a\0b"}, {"mask": "m" * 5000}, {"memory_budget": 1e400},
    ],
    ids=lambda f: str(f)[:30],
)  # fmt: skip
def test_block_settings_that_would_fill_the_memory_or_break_later_are_refused(fields: dict[str, Any]) -> None:
    message = refusal(lambda: BlockSkip(**fields))
    assert message.startswith(next(iter(fields)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: TokenMerge(stride=(10**6, 2)), lambda: TokenMerge(bucket=2**40), lambda: TokenMerge(seed=2**64),
        lambda: TokenMerge(checkpoints=[10**9]), lambda: TokenMerge(checkpoints=range(10**12)),
        lambda: TokenPrune(ratio=[0.1] * (MOST_CALLS + 1)), lambda: TokenPrune(gamma=float("inf")),
        lambda: TokenPrune(seed=2**64), lambda: Recipe(name=5), lambda: Recipe(name="a\nb"), lambda: Recipe(name="n" * 201),
        lambda: Recipe(merge=BlockSkip()),
    ],
)  # fmt: skip
def test_every_number_and_text_has_a_bound(make: Callable[[], Any]) -> None:
    assert refusal(make)


@pytest.mark.parametrize("name", ["x" * 3000, "a\0b", "a/" * 200 + "b"])
@pytest.mark.parametrize("kind", ["auto", "call_skip", "block_skip"])
def test_a_recipe_file_that_names_a_file_which_no_disk_can_hold_raises_nothing_else(
    kind: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.json"
    field = "mask" if kind == "block_skip" else "profile"
    path.write_text(json.dumps({"skipstone": 1, "methods": [{"kind": kind, field: name}]}), encoding="utf-8")
    refusal(lambda: Recipe.load(path))


def test_a_recipe_file_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(b" " * ((1 << 20) + 1))
    assert "longer than" in refusal(lambda: Recipe.load(tmp_path / "r.json"))


@given(value=objects)
def test_what_messages_quote_is_short_and_printable(value: Any) -> None:
    assert len(shown(value)) <= 42 and shown(value).isprintable()


HEAD = {
    "skipstone_mask": 1, "family": "DiT", "blocks": ["b0", "b1"], "timesteps": [900.0, 400.0, 0.0], "caching": "output",
    "provenance": {"by": "hand"}, "signature": ["s", "s"], "forecast": False,
}  # fmt: skip
RUN = torch.ones(3, 2, dtype=torch.uint8)
HEADERS = [
    {"timesteps": [10**400, 1, 0]}, {"timesteps": [True, 0, 0]}, {"timesteps": ["9", "4", "0"]}, {"timesteps": "900"},
    {"timesteps": [float("nan"), 4, 0]}, {"timesteps": [float("inf"), 4, 0]}, {"timesteps": [0, 500, 900]},
    {"timesteps": [2e6, 1, 0]}, {"timesteps": {"a": 1, "b": 2, "c": 3}}, {"timesteps": None}, {"blocks": "ab"},
    {"blocks": [1, 2]}, {"blocks": ["\ud800", "b"]}, {"blocks": ["a\n", "b"]}, {"blocks": ["b" * 301, "b"]},
    {"blocks": {"a": 1, "b": 1}}, {"family": 5}, {"family": "\x1b[31m"}, {"family": "f" * 999}, {"caching": ["output"]},
    {"caching": {}}, {"provenance": [1]}, {"provenance": "text"}, {"provenance": None}, {"signature": ["s"]},
    {"signature": "ss"}, {"signature": [None, None]}, {"forecast": "yes"}, {"forecast": 1}, {"skipstone_mask": 2},
]  # fmt: skip


def write(path: Path, header: str, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    save_file({"run": RUN} if tensors is None else tensors, path, metadata={"mask": header})
    return path


@pytest.mark.parametrize("change", HEADERS, ids=lambda c: str(c)[:30])
def test_a_mask_header_with_a_wrong_value_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", json.dumps({**HEAD, **change}))
    assert path.name in refusal(lambda: Mask.load(path))
    assert not refusal(lambda: Mask.load(write(path, json.dumps(HEAD))))


@pytest.mark.parametrize(
    "text",
    ["", "[" * 9999, '{"provenance":' * 9999, '{"skipstone_mask":' + "1" * 5000 + "}", "\0", '{"skipstone_mask":1}'],
    ids=lambda t: t[:12],
)
def test_a_mask_header_that_is_no_header_is_refused(text: str, tmp_path: Path) -> None:
    assert refusal(lambda: Mask.load(write(tmp_path / "m.safetensors", text)))


@pytest.mark.parametrize(
    "tensors",
    [
        {}, {"run": RUN * 2}, {"run": RUN.float() * float("nan")}, {"run": RUN[0]}, {"run": RUN[:2]}, {"run": RUN[:0]},
        {"run": RUN.bfloat16()}, {"run": RUN, "probabilities": torch.full((3, 2), float("nan"))},
        {"run": RUN, "probabilities": torch.full((3, 2), 1.5)}, {"run": RUN, "probabilities": torch.zeros(2)},
        {"run": RUN, "probabilities": torch.zeros(3, 2).bfloat16()}, {"run": torch.zeros((1 << 24) + 1, dtype=torch.uint8)},
    ],
)  # fmt: skip
def test_a_mask_with_wrong_tensors_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert refusal(lambda: Mask.load(write(tmp_path / "m.safetensors", json.dumps(HEAD), tensors)))


@settings(max_examples=150)
@given(change=st.dictionaries(st.sampled_from(list(HEAD)), values, max_size=2))
def test_any_mask_header_is_accepted_or_refused_in_one_line(
    change: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    try:
        text = json.dumps({**HEAD, **change})
    except (ValueError, RecursionError):
        return
    write(path, text)
    if not refusal(lambda: Mask.load(path)):
        mask = Mask.load(path)
        mask.save(path)
        assert Mask.load(path).provenance == mask.provenance


@given(
    fields=st.dictionaries(
        st.sampled_from(["run", "blocks", "timesteps", "caching", "provenance"]), objects, max_size=2
    )
)
def test_any_mask_in_memory_is_accepted_or_refused_in_one_line(fields: dict[str, Any]) -> None:
    good = {"run": RUN.numpy().astype(bool), "family": "DiT", "blocks": ("a", "b"), "timesteps": (9.0, 4.0, 0.0)}
    refusal(lambda: Mask(**{**good, **fields}))


@pytest.mark.parametrize("path", ["a\0b", "lone\ud800", "p" * 5000, "."])
def test_a_mask_path_that_cannot_be_read_is_refused_in_one_line(path: str) -> None:
    assert "cannot read mask" in refusal(lambda: Mask.load(path))


def test_timesteps_may_be_negative_and_repeat_and_rise_by_rounding() -> None:
    for times in ((1.6, 0.2, -1.5), (981.0, 981.0, 961.0), (499.0, 499.4, 120.0), (5.0, 5.0, 5.0)):
        assert Mask(np.ones((3, 1), dtype=bool), "SVD", ("a",), times).timesteps == times
    with pytest.raises(MaskError, match="rise"):
        Mask(np.ones((3, 1), dtype=bool), "SVD", ("a",), (499.0, 520.0, 120.0))
