"""The ComfyUI node's face: its schema, its texts, and the workflows that ship with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from doubles import comfy

from skipstone.core.recipe import TokenMerge, preset

ROOT = Path(__file__).resolve().parents[1]
NODE = "SkipstoneTokenMerge"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable, and its server remembers what was shown on nodes."""
    with comfy.installed(monkeypatch) as server:
        yield server


@pytest.fixture
def schema(server: comfy.PromptServer) -> comfy.Schema:
    from skipstone.nodes.token_merge import SkipstoneTokenMerge

    return SkipstoneTokenMerge.define_schema()


@pytest.fixture
def widgets(schema: comfy.Schema) -> dict[str, Any]:
    """Inputs by id, without the model."""
    return {i.id: i for i in schema.inputs[1:]}


def test_the_entry_point_lists_the_nodes(server: comfy.PromptServer) -> None:
    import asyncio

    import skipstone

    async def ids() -> list[str]:
        extension = await skipstone.comfy_entrypoint()
        return [node.define_schema().node_id for node in await extension.get_node_list()]

    assert asyncio.run(ids())[0] == NODE


def test_importing_the_package_imports_no_host() -> None:
    import subprocess
    import sys

    code = "import sys, skipstone; skipstone.TokenMerge; print([m for m in sys.modules if 'comfy' in m or 'skipstone.nodes' in m])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_threshold_is_the_first_widget_and_a_slider(widgets: dict[str, Any]) -> None:
    name, threshold = next(iter(widgets.items()))
    assert (name, threshold.display_mode, threshold.min, threshold.max) == ("threshold", "slider", -1.0, 1.0)
    assert (threshold.default, threshold.step) == (0.7, 0.01)


def test_every_input_has_a_tooltip_with_a_number(schema: comfy.Schema) -> None:
    assert all(re.search(r"\d", i.tooltip) for i in schema.inputs)
    assert len({i.tooltip for i in schema.inputs}) == len(schema.inputs)


def test_rare_widgets_are_advanced_and_only_two_are_required(widgets: dict[str, Any]) -> None:
    assert [name for name, w in widgets.items() if not w.optional] == ["threshold", "checkpoints"]
    common = [name for name, w in widgets.items() if not w.as_dict().get("advanced")]
    assert common == ["threshold", "checkpoints", "custom_checkpoints"]


def test_left_alone_the_widgets_are_the_papers_recipe(widgets: dict[str, Any]) -> None:
    from skipstone.nodes.token_merge import build_recipe

    assert build_recipe(**{name: w.default for name, w in widgets.items()}).merge == preset("ca_tome").merge
    assert build_recipe().merge == preset("ca_tome").merge


def test_every_choice_of_every_list_builds_a_recipe(widgets: dict[str, Any]) -> None:
    from skipstone.nodes.token_merge import build_recipe

    for name, widget in widgets.items():
        for choice in getattr(widget, "options", []):
            assert build_recipe(**{name: choice, "custom_checkpoints": "0, 5"}).merge is not None


def test_each_widget_reaches_its_setting(server: comfy.PromptServer) -> None:
    from skipstone.nodes.token_merge import build_recipe

    merge = build_recipe(
        threshold=0.4,
        checkpoints="custom",
        custom_checkpoints="7 3",
        proportional=True,
        matching="local",
        max_downsample="4",
        batch="max",
        destination="random",
        stride=3,
        start_percent=0.1,
        end_percent=0.9,
        merge_cross_attention=True,
        merge_mlp=True,
    ).merge
    want = {"threshold": 0.4, "checkpoints": (3, 7), "proportional": True, "matching": "local", "max_downsample": 4}
    want |= {"batch": "max", "destination": "random", "stride": (3, 3), "start": 0.1, "end": 0.9}
    assert merge == TokenMerge(**want, targets=("attn1", "attn2", "ff"))
    changed = {f.name for f in fields(TokenMerge) if getattr(merge, f.name) != getattr(TokenMerge(), f.name)}
    assert changed == {*want, "targets"}


def test_the_english_locale_repeats_the_schema(schema: comfy.Schema) -> None:
    texts = json.loads((ROOT / "locales/en/nodeDefs.json").read_text())[NODE]
    assert (texts["display_name"], texts["description"]) == (schema.display_name, schema.description)
    assert texts["inputs"] == {i.id: {"name": i.id, "tooltip": i.tooltip} for i in schema.inputs}
    assert texts["outputs"]["0"]["tooltip"] == schema.outputs[0].tooltip
    assert not re.search(r"[@|$]|\{|\}", json.dumps([i.tooltip for i in schema.inputs])), "read as markup by the page"


def test_the_help_page_names_every_input_with_its_default(widgets: dict[str, Any]) -> None:
    page = (ROOT / f"web/docs/{NODE}.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in page.splitlines() if line.startswith("|")]
    defaults = {name: shown for names, shown in rows for name in names.split(", ")}
    for name, widget in widgets.items():
        shown = {"True": "on", "False": "off"}.get(str(widget.default), str(widget.default).split(",")[0])
        assert shown.removesuffix(".0") in defaults[name], name


# workflows


def ui_graph() -> dict[str, Any]:
    return json.loads((ROOT / "workflows/sd15_token_merge.json").read_text())


def api_graph() -> dict[str, Any]:
    return json.loads((ROOT / "workflows/api/sd15_token_merge.json").read_text())


def linked(graph: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Of a UI graph: node id -> input -> [source id, output slot], as the API format has it."""
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    named = {str(n["id"]): n.get("inputs", []) for n in graph["nodes"] if "Note" not in n["type"]}
    return {node: {i["name"]: links[i["link"]] for i in slots if i.get("link")} for node, slots in named.items()}


def test_both_forms_of_the_workflow_are_the_same_graph() -> None:
    ui, api = ui_graph(), api_graph()
    assert {str(n["id"]): n["type"] for n in ui["nodes"] if "Note" not in n["type"]} == {
        node: entry["class_type"] for node, entry in api.items()
    }
    values = {str(n["id"]): n.get("widgets_values") or [] for n in ui["nodes"]}
    for node, links in linked(ui).items():
        inputs = api[node]["inputs"]
        assert links == {k: v for k, v in inputs.items() if isinstance(v, list)}
        own = [v for k, v in inputs.items() if not isinstance(v, list)]
        assert [v for v in values[node] if v != "fixed"] == own, node


def test_the_workflows_values_are_valid_for_the_node(widgets: dict[str, Any]) -> None:
    (node,) = [n for n in ui_graph()["nodes"] if n["type"] == NODE]
    slots = [i["name"] for i in node["inputs"] if "widget" in i]
    assert slots == list(widgets)
    for widget, value in zip(widgets.values(), node["widgets_values"], strict=True):
        assert value in widget.options if hasattr(widget, "options") else value == widget.default, widget.id


def test_the_workflow_has_a_note_and_a_thumbnail() -> None:
    (note,) = [n for n in ui_graph()["nodes"] if "Note" in n["type"]]
    assert "checkpoint" in note["widgets_values"][0] and "threshold" in note["widgets_values"][0]
    picture = (ROOT / "workflows/sd15_token_merge.jpg").read_bytes()
    assert picture[:3] == b"\xff\xd8\xff" and len(picture) < 200_000
