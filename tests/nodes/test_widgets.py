"""Widgets are made from the settings' descriptions: none is written twice, released ones stay, new ones appear by themselves."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from doubles import comfy

from skipstone.core.calibrate.masks.settings import TrainSettings
from skipstone.core.errors import RecipeError
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.fields import check_fields, field_of, fields_of, setting
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune

ROOT = Path(__file__).resolve().parents[2]
RELEASED = json.loads((ROOT / "tests/support/released_nodes.json").read_text())
"""Node id -> its inputs as they were first published: saved workflows hold their values in this order."""
SETTINGS = (TokenMerge, TokenPrune, BlockSkip, CallSkip, TrainSettings)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable and has folders."""
    with comfy.installed(monkeypatch, tmp_path) as server:
        yield server


def schemas() -> dict[str, Any]:
    """Of all nodes, by id."""
    from skipstone.nodes import SkipstoneExtension
    from skipstone.tools.node_texts import schemas_of

    return {schema.node_id: schema for schema in schemas_of(SkipstoneExtension())}


# what was released stays


@pytest.mark.parametrize("node", RELEASED)
def test_released_widgets_keep_their_place_their_default_and_their_choices(
    server: comfy.PromptServer, node: str
) -> None:
    now = schemas()[node].inputs
    assert [i.id for i in now][: len(RELEASED[node])] == [was["id"] for was in RELEASED[node]]
    for was, one in zip(RELEASED[node], now, strict=False):
        options = one.as_dict()
        assert type(one).__name__ == f"{was['type']}Input" or not was["type"]
        for key in ("default", "display_mode"):
            assert was.get(key) == options.get(key) or was["id"] == "file", (was["id"], key)
        choices = was.get("options") or []
        assert (options.get("options") or [])[: len(choices)] == choices or was["id"] == "file", was["id"]
        assert [was.get(key, False) for key in ("optional", "advanced")] == [
            one.optional,
            options.get("advanced", False),
        ]
        if was.get("max") is not None:
            assert options["min"] <= was["min"] <= was["max"] <= options["max"], was["id"]


# what is added appears


MORE = setting(3, "Size of the blur that nobody has added yet.", low=0, high=9, advanced=True)
ADDED = [
    ("core.recipe.token_merge", TokenMerge, "SkipstoneTokenMerge", lambda node, w: node.build_recipe(**w).merge),
    ("core.recipe.token_prune", TokenPrune, "SkipstoneDaTo", lambda node, w: node.build_dato("custom", **w).prune),
    ("core.recipe.block_skip", BlockSkip, "SkipstoneMaskRule", lambda node, w: node.build_rule(**w)),
    ("core.recipe.call_skip", CallSkip, "SkipstoneCallSkip", lambda node, w: node.build_calls(**w).calls),
    ("core.calibrate.masks.settings", TrainSettings, "SkipstoneTrainMask", lambda node, w: node.build_settings(**w)),
]


@pytest.mark.parametrize(("module", "cls", "node", "build"), ADDED, ids=[node for _, _, node, _ in ADDED])
def test_a_new_field_of_the_settings_is_a_widget_a_text_and_an_item_of_the_help_page(
    server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch, module: str, cls: type[Any], node: str, build: Any
) -> None:
    larger = dataclasses.make_dataclass(cls.__name__, [("blur", int, MORE)], bases=(cls,), frozen=True)
    monkeypatch.setattr(sys.modules[f"skipstone.{module}"], cls.__name__, larger)
    from skipstone.tools.node_texts import locale, page

    schema = schemas()[node]
    widget = schema.inputs[-1].as_dict()
    assert (schema.inputs[-1].id, widget["default"], widget["min"], widget["max"]) == ("blur", 3, 0, 9)
    assert widget["optional"] and widget["advanced"]
    text = "Size of the blur that nobody has added yet."
    assert json.loads(locale([schema]))[node]["inputs"]["blur"] == {"name": "blur", "tooltip": text}
    assert f"- **blur** (3): {text}\n" in page(schema, "")
    file = import_module("skipstone.nodes").NODES[node]
    assert build(import_module(f"skipstone.nodes.{file}"), {"blur": 5}).blur == 5


@pytest.mark.parametrize("rare", [False, True], ids=["common", "advanced"])
def test_a_new_widget_is_optional_so_that_saved_workflows_go_on(server: comfy.PromptServer, rare: bool) -> None:
    from skipstone.nodes.widgets import Panel

    @dataclass(frozen=True)
    class Settings:
        old: int = setting(1, "Old.", low=0, high=9)
        new: float = setting(0.5, "New.", low=0.0, high=1.0, advanced=rare)

    old, new = Panel({Settings: ("old", "new")}, ("old",)).inputs()
    assert not old.optional and new.optional


def test_a_node_without_a_help_page_gets_one(server: comfy.PromptServer) -> None:
    from skipstone.tools.node_texts import page

    schema = schemas()["SkipstoneMaskPreview"]
    made = page(schema, "")
    assert made.startswith("# Preview Block Mask\n") and schema.description in made
    assert "- **steps** (20): Number of steps to draw.\n" in made and page(schema, made) == made


# nothing is written twice


def node_files() -> list[Path]:
    return sorted((ROOT / "nodes").glob("*.py"))


def phrases(text: str) -> set[str]:
    """Every eight words in a row."""
    words = text.split()
    return {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}


def texts(path: Path) -> list[str]:
    """All string literals of a file, neighbours joined."""
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_no_help_text_of_a_field_is_repeated_in_a_node() -> None:
    fields = [one for cls in SETTINGS for one in fields_of(cls).values()]
    helps = [h for one in fields for h in (one.help, one.custom, *(text for _, text in one.parts))]
    known = set().union(*map(phrases, helps))
    assert len(known) > 500
    for path in node_files():
        assert not known & set().union(*map(phrases, texts(path))), path.name


def made_by_hand(path: Path) -> set[str]:
    """Ids of the number boxes, lists, switches and text boxes that a file makes itself."""
    found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    kinds = {f"io.{kind}.Input" for kind in ("Float", "Int", "Combo", "String", "Boolean")}
    return {ast.literal_eval(node.args[0]) for node in found if ast.unparse(node.func) in kinds}


def test_no_widget_of_a_settings_field_is_made_by_hand(server: comfy.PromptServer) -> None:
    by_hand = set().union(*map(made_by_hand, node_files()))
    assert by_hand == {
        "model",
        "batch_size",
        "amplify",
        "seconds_original",
        "seconds_accelerated",
        "preset",
        "file",
        "steps",
        "filename_prefix",
        "cfg",
        "sampler_name",
        "scheduler",
        "level",
        "profile_file",
    }
    assert not by_hand & {name for cls in SETTINGS for name in fields_of(cls)}


def test_every_node_is_one_file_and_one_line(server: comfy.PromptServer) -> None:
    from skipstone.nodes import NODES, SkipstoneExtension

    with_nodes = {
        path.stem: [c.name for c in ast.parse(path.read_text()).body if isinstance(c, ast.ClassDef)]
        for path in node_files()
        if "(io.ComfyNode)" in path.read_text()
    }
    assert {file: [name] for name, file in NODES.items()} == with_nodes
    assert [node.__name__ for node in asyncio.run(SkipstoneExtension().get_node_list())] == list(NODES)


# every kind of field


@dataclass(frozen=True)
class Everything:
    """One field of each kind."""

    share: float = setting(0.5, "Share.", low=0.0, high=1.0, step=0.05)
    weight: float = setting(1.0, "Weight.", low=-9.0, high=9.0, advanced=True)
    count: int = setting(2, "Count.", low=1, high=8)
    on: bool = setting(True, "On.", advanced=True)
    level: int | str = setting("auto", "Level.", choices=("auto", 1, 2, 4), advanced=True)
    rule: str = setting("even", "Rule.", choices=("even", "odd", "secret"), unlisted=("secret",))
    steps: str | tuple[int, ...] = setting(
        "all", "Steps.", choices=("all",), custom="Own steps.", example="0, 1", parse=lambda text: tuple(map(int, text.split())),
    )  # fmt: skip
    ratio: float | tuple[float, ...] = setting(
        0.4, "Ratio.", low=0.0, high=1.0, custom="Own ratios.", parse=lambda text: tuple(map(float, text.split()))
    )
    cell: tuple[int, int] = setting((2, 2), "Cell.", low=1, high=64, advanced=True)
    codes: tuple[int, ...] = setting(
        (), "Codes.", low=0, high=9, example="1, 0", parse=lambda text: tuple(map(int, text.split()))
    )
    targets: tuple[str, ...] = setting(
        ("a",), "Targets.", choices=("a", "b", "c"), parts=(("b", "Also b."), ("c", "Also c."))
    )
    bucket: int | str = setting("auto", "Bucket.", low=1, high=99, also=("auto",))
    hidden: int = setting(0, "Hidden.", low=0, high=1, shown=False)

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.fixture
def panel(server: comfy.PromptServer) -> Any:
    from skipstone.nodes.widgets import Panel, shown_fields

    return Panel({Everything: shown_fields(Everything)}, ids={"targets.c": "with_c", "cell": "size"})


def test_each_kind_of_field_has_its_widget(panel: Any) -> None:
    kinds = {i.id: type(i).__name__.removesuffix("Input") for i in panel.inputs()}
    assert kinds == {
        "share": "Float", "weight": "Float", "count": "Int", "on": "Boolean", "level": "Combo", "rule": "Combo",
        "steps": "Combo", "custom_steps": "String", "ratio": "Float", "custom_ratio": "String", "size": "Int",
        "codes": "String", "targets_b": "Boolean", "with_c": "Boolean", "bucket": "String",
    }  # fmt: skip
    drawn = {i.id: i for i in panel.inputs()}
    assert (drawn["share"].step, drawn["share"].display_mode, drawn["weight"].display_mode) == (0.05, "slider", None)
    assert drawn["level"].options == ["auto", "1", "2", "4"] and drawn["rule"].options == ["even", "odd"]
    assert drawn["steps"].options == ["all", "custom"] and drawn["custom_steps"].default == "0, 1"
    assert (drawn["size"].default, drawn["size"].max, drawn["codes"].default) == (2, 64, "1, 0")
    assert drawn["with_c"].tooltip == "Also c." and drawn["with_c"].default is False


READ = [
    ({}, {}),
    ({"share": 0.3, "on": False, "size": 3}, {"share": 0.3, "on": False, "cell": (3, 3)}),
    ({"level": "4", "rule": "odd"}, {"level": 4, "rule": "odd"}),
    ({"steps": "custom", "custom_steps": "4 7"}, {"steps": (4, 7)}),
    ({"steps": "all", "custom_steps": "4 7"}, {"steps": "all"}),
    ({"ratio": 0.1, "custom_ratio": " "}, {"ratio": 0.1}),
    ({"ratio": 0.1, "custom_ratio": "0.2 0.3"}, {"ratio": (0.2, 0.3)}),
    ({"codes": "3 1"}, {"codes": (3, 1)}),
    ({"targets_b": True}, {"targets": ("a", "b")}),
    ({"with_c": True, "targets_b": False}, {"targets": ("a", "c")}),
    ({"bucket": "auto"}, {"bucket": "auto"}),
    ({"bucket": "32"}, {"bucket": 32}),
]


@pytest.mark.parametrize(("widgets", "values"), READ, ids=str)
def test_widgets_are_read_back_as_values_of_the_fields(panel: Any, widgets: Any, values: Any) -> None:
    assert panel.read(Everything, widgets) == values
    assert dataclasses.asdict(Everything(**values)) == {**dataclasses.asdict(Everything()), **values}


def test_left_alone_the_widgets_are_the_defaults(panel: Any) -> None:
    defaults = {i.id: i.default for i in panel.inputs() if i.id != "codes"}
    assert Everything(**panel.read(Everything, defaults)) == Everything()


def test_what_is_no_number_is_refused_by_the_fields_check(panel: Any) -> None:
    with pytest.raises(RecipeError, match="bucket='many' must be a whole number from 1 on"):
        Everything(**panel.read(Everything, {"bucket": "many"}))


def test_tooltips_are_the_fields_own(server: comfy.PromptServer) -> None:
    widgets = {i.id: i for i in schemas()["SkipstoneTokenMerge"].inputs}
    assert widgets["threshold"].tooltip == field_of(TokenMerge, "threshold").help
    assert widgets["custom_checkpoints"].tooltip == field_of(TokenMerge, "checkpoints").custom
    assert widgets["merge_mlp"].tooltip == dict(field_of(TokenMerge, "targets").parts)["ff"]
    dato = {i.id: i for i in schemas()["SkipstoneDaTo"].inputs}
    assert dato["recover_from"].tooltip == f"{field_of(TokenPrune, 'recover_from').help} auto follows the preset."
