"""What people see of the ComfyUI nodes: schemas, texts, help pages, and the workflows that ship with them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from doubles import comfy

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable and has folders."""
    with comfy.installed(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def schemas(server: comfy.PromptServer) -> dict[str, comfy.Schema]:
    """By node id, as the entry point lists them."""
    import skipstone

    async def listed() -> list[comfy.Schema]:
        extension = await skipstone.comfy_entrypoint()
        return [node.define_schema() for node in await extension.get_node_list()]

    return {schema.node_id: schema for schema in asyncio.run(listed())}


def test_the_entry_point_lists_the_nodes_and_registers_their_folders(schemas: dict[str, comfy.Schema]) -> None:
    released = list(json.loads((ROOT / "tests/support/released_nodes.json").read_text()))
    assert list(schemas)[: len(released)] == released
    folders = sys.modules["folder_paths"].folders
    assert set(folders) == {"skipstone_masks", "skipstone_recipes", "skipstone_profiles"}
    assert all([p.parent.name for p in places] == ["models", "output"] for places in folders.values())


def test_every_input_has_a_short_tooltip_of_its_own(schemas: dict[str, comfy.Schema]) -> None:
    for name, schema in schemas.items():
        tips = [i.tooltip for i in schema.inputs]
        assert all(tips) and len(set(tips)) == len(tips), name
        assert all(len(tip) < 300 and tip.endswith(".") for tip in tips), name
        assert all(o.tooltip for o in schema.outputs) and schema.category.startswith("Skipstone")


def test_the_locales_and_the_help_pages_are_those_of_the_schemas(schemas: dict[str, comfy.Schema]) -> None:
    from skipstone.tools.node_texts import translations, written

    files = written(schemas.values())
    languages = ["en", *translations()]
    assert len(files) == len(languages) * (len(schemas) + 1)
    for path, text in files.items():
        assert path.read_text("utf-8") == text, f"{path.name} is out of date: run python -m skipstone.tools.node_texts"


def listed(schema: comfy.Schema) -> list[str]:
    """The ids of inputs, advanced ones last."""
    return [one.id for one in sorted(schema.inputs, key=lambda one: bool(one.as_dict().get("advanced")))]


def test_each_help_page_has_the_nodes_name_its_description_and_every_input(schemas: dict[str, comfy.Schema]) -> None:
    for name, schema in schemas.items():
        page = (ROOT / f"web/docs/{name}.md").read_text()
        assert page.startswith(f"# {schema.display_name}\n") and schema.description in page
        assert re.findall(r"^- \*\*([a-z]\w*)\*\*(?: \(.*\))?:", page, re.MULTILINE) == listed(schema), name


def test_each_help_page_shows_a_small_picture_that_a_tool_draws(schemas: dict[str, comfy.Schema]) -> None:
    from skipstone.tools.figure_list import FIGURES

    assert set(FIGURES) == set(schemas)
    for name, figure in FIGURES.items():
        page = (ROOT / f"web/docs/{name}.md").read_text()
        assert re.findall(r"!\[(.*)\]\((.*)\)", page) == [(figure.caption, f"img/{name}.webp")]
        picture = (ROOT / f"web/docs/img/{name}.webp").read_bytes()
        assert picture[:4] == b"RIFF" and picture[8:12] == b"WEBP" and len(picture) < 60_000, name


def test_no_text_is_read_as_markup_by_the_page(schemas: dict[str, comfy.Schema]) -> None:
    for schema in schemas.values():
        assert not re.search(r"[@|$]|\{|\}", " ".join(i.tooltip for i in schema.inputs))


def test_a_node_that_writes_on_itself_runs_once_for_each_id(schemas: dict[str, comfy.Schema]) -> None:
    """ComfyUI reuses the output of an equal node with another id; its report would be written on that one. Training is too long."""
    writing = {name for name, schema in schemas.items() if schema.hidden}
    assert writing - {name for name in writing if schemas[name].not_idempotent} == {"SkipstoneTrainMask"}
    assert len(writing) == 14


def test_common_widgets_are_few(schemas: dict[str, comfy.Schema]) -> None:
    common = {
        name: [i.id for i in schema.inputs if hasattr(i, "default") and not i.as_dict().get("advanced")]
        for name, schema in schemas.items()
    }
    assert common["SkipstoneTokenMerge"] == ["threshold", "checkpoints", "custom_checkpoints"]
    assert common["SkipstoneDaTo"] == ["preset", "ratio", "custom_depths", "custom_ratios"]
    assert common["SkipstoneCallSkip"] == ["speedup", "calls"]
    assert common["SkipstoneMaskRule"] == ["rule", "every"] and common["SkipstoneBlockMask"] == [
        "rule",
        "every",
        "depths",
    ]
    assert max(map(len, common.values())) <= 6


def test_boxes_for_the_users_own_values_are_shown_with_the_option_that_uses_them(
    schemas: dict[str, comfy.Schema],
) -> None:
    from skipstone.nodes.widgets import SHOWN_WHEN

    inputs = {name: {one.id: one for one in schema.inputs} for name, schema in schemas.items()}
    boxes = {(node, name): one for node, of in inputs.items() for name, one in of.items()}
    shown = {place: one.extra_dict[SHOWN_WHEN] for place, one in boxes.items() if SHOWN_WHEN in one.extra_dict}
    assert all(option in inputs[node][other].options for (node, _), (other, option) in shown.items())
    assert shown["SkipstoneTokenMerge", "custom_checkpoints"] == ["checkpoints", "custom"]
    assert shown["SkipstoneDaTo", "custom_ratios"] == shown["SkipstoneDaTo", "custom_depths"] == ["preset", "custom"]
    assert shown["SkipstoneBlockMask", "depths"] == ["rule", "depths"] and len(shown) >= 6


def test_the_search_finds_each_accelerating_node_where_the_host_has_words_for_it(
    server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipstone.nodes import widgets
    from skipstone.nodes.compare import SkipstoneCompare
    from skipstone.nodes.report import SkipstoneReport

    assert widgets.found_by("tome") == {}
    newer = {"__annotations__": {"search_aliases": list}, "search_aliases": field(default_factory=list)}
    monkeypatch.setattr(widgets.io, "Schema", dataclass(type("Schema", (widgets.io.Schema,), newer)))
    assert {"tome", "faster", "speed", "accelerate", "cache"} < set(widgets.found_by("tome")["search_aliases"])
    words = {node: set(node.define_schema().search_aliases) for node in (SkipstoneCompare, SkipstoneReport)}
    assert {"compare", "difference", "psnr", "wipe", "before after"} < words[SkipstoneCompare]
    assert {"report", "speedup", "plot"} < words[SkipstoneReport]


# workflows


def graph(name: str, api: bool = False) -> dict[str, Any]:
    return json.loads((ROOT / "workflows" / ("api" if api else "") / f"{name}.json").read_text())


def linked(graph: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Of a UI graph: node id -> input -> [source id, output slot], as the API format has it."""
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    named = {str(n["id"]): n.get("inputs", []) for n in graph["nodes"] if "Note" not in n["type"]}
    return {node: {i["name"]: links[i["link"]] for i in slots if i.get("link")} for node, slots in named.items()}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_both_forms_of_a_workflow_are_the_same_graph(name: str) -> None:
    ui, api = graph(name), graph(name, api=True)
    nodes = {str(n["id"]): n for n in ui["nodes"] if "Note" not in n["type"]}
    assert {i: n["type"] for i, n in nodes.items()} == {i: entry["class_type"] for i, entry in api.items()}
    for node, links in linked(ui).items():
        inputs = api[node]["inputs"]
        assert links == {k: v for k, v in inputs.items() if isinstance(v, list)}
        shown = [v for v in nodes[node].get("widgets_values") or [] if v != "fixed"]
        widgets = [i for i in nodes[node].get("inputs", []) if "widget" in i]
        own = {i["name"]: v for i, v in zip(widgets, shown, strict=True) if not i.get("link")}
        assert own == {k: v for k, v in inputs.items() if not isinstance(v, list)}, node


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflows_widgets_are_those_of_the_nodes(schemas: dict[str, comfy.Schema], name: str) -> None:
    ours = [n for n in graph(name)["nodes"] if n["type"] in schemas]
    assert ours
    for node in ours:
        widgets = [i for i in schemas[node["type"]].inputs if hasattr(i, "default")]
        names = [i["name"] for i in node["inputs"] if "widget" in i]
        assert names == [w.id for w in widgets][: len(names)], node["type"]
        assert len(node["widgets_values"]) == len(names) and all(w.optional for w in widgets[len(names) :])
        for widget, value in zip(widgets, node["widgets_values"], strict=False):
            choices = getattr(widget, "options", None)
            assert value in choices if choices else type(value) in (type(widget.default), int), (
                node["type"],
                widget.id,
            )


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_a_note_a_fixed_seed_and_a_thumbnail(name: str) -> None:
    nodes = graph(name)["nodes"]
    (note,) = [n for n in nodes if "Note" in n["type"]]
    assert note["widgets_values"][0].startswith("**1.** Choose a")
    assert "`" not in note["widgets_values"][0], "code is blue on blue in a note: write *level*"
    assert all(n["widgets_values"][1] == "fixed" for n in nodes if n["type"] == "KSampler")
    picture = (ROOT / f"workflows/{name}.jpg").read_bytes()
    assert picture[:3] == b"\xff\xd8\xff" and len(picture) < 60_000


TITLE = 30
"""Height of a node's title, which lies above its place."""


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    (x, y), (w, h), (u, v), (a, b) = one["pos"], one["size"], other["pos"], other["size"]
    return x < u + a and u < x + w and y - TITLE < v + b and v - TITLE < y + h


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_node_covers_another(name: str) -> None:
    pairs = combinations(graph(name)["nodes"], 2)
    assert [(one["type"], other["type"]) for one, other in pairs if overlap(one, other)] == []


def test_the_workflows_that_a_tool_writes_are_up_to_date(schemas: dict[str, comfy.Schema]) -> None:
    from skipstone.tools.workflow_core import CORE
    from skipstone.tools.workflow_list import WORKFLOWS as made
    from skipstone.tools.workflows import kinds_of, written

    files = written(made, {**CORE, **kinds_of(list(schemas.values()))})
    assert len(files) == 2 * len(made) and set(made) <= set(WORKFLOWS)
    for path, text in files.items():
        assert path.read_text() == text, f"{path.name} is out of date: run python -m skipstone.tools.workflows"


def test_every_workflow_has_a_picture_that_the_tool_draws() -> None:
    from skipstone.tools.thumbnails import THUMBNAILS

    assert sorted(THUMBNAILS) == WORKFLOWS


def test_the_comparison_reads_its_times_from_the_report(schemas: dict[str, comfy.Schema]) -> None:
    compare = graph("demo_compare", api=True)["8"]["inputs"]
    outputs = [one.display_name for one in schemas["SkipstoneReport"].outputs]
    sources = {name: outputs[compare[name][1]] for name in ("seconds_original", "seconds_accelerated")}
    assert sources == {"seconds_original": "seconds_in_full", "seconds_accelerated": "seconds"}
    (node,) = [n for n in graph("demo_compare")["nodes"] if n["type"] == "SkipstoneCompare"]
    link = next(i["link"] for i in node["inputs"] if i["name"] == "seconds_original")
    (drawn,) = [one for one in graph("demo_compare")["links"] if one[0] == link]
    assert node["inputs"][drawn[4]]["name"] == "seconds_original"


def test_both_samplers_of_the_comparison_differ_in_their_model_alone() -> None:
    one, other = (dict(graph("demo_compare", api=True)[number]["inputs"]) for number in ("6", "10"))
    assert (one.pop("model"), other.pop("model")) == (["2", 0], ["1", 0]) and one == other
