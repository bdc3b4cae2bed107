"""The nodes that make, keep and draw masks, driven by doubles of the host: rules, files, pictures; their faces and the workflow."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubles import comfy
from test_mask_nodes import SKIP, Lumina2, Unknown, made, masks, network, patch, patcher, said, sample, server
from test_nodes_schema import linked

from skipstone.core.errors import RecipeError
from skipstone.core.plan.mask import Mask
from skipstone.core.recipe_skip import BlockSkip

__all__ = ["network", "patcher", "server"]

ROOT = Path(__file__).resolve().parents[1]
IDS = ("SkipstoneBlockMask", "SkipstoneMaskRule", "SkipstoneMaskLoader", "SkipstoneMaskSaver", "SkipstoneMaskPreview")


def saved(patcher: comfy.ModelPatcher, tmp_path: Path, name: str = "own.safetensors", **changes: Any) -> Mask:
    """A mask file in models/skipstone_masks."""
    from dataclasses import replace

    mask = replace(made(patcher), **changes)
    (tmp_path / "models/skipstone_masks").mkdir(parents=True, exist_ok=True)
    mask.save(tmp_path / "models/skipstone_masks" / name)
    return mask


# the rule node


def rule_schema() -> comfy.Schema:
    return masks().SkipstoneMaskRule.define_schema()


def test_left_alone_the_widgets_are_deepcache(server: comfy.PromptServer) -> None:
    defaults = {i.id: i.default for i in rule_schema().inputs}
    assert masks().build_rule(**defaults) == BlockSkip(rule="deepcache", every=3) == masks().build_rule()


def test_each_widget_reaches_its_setting(server: comfy.PromptServer) -> None:
    want: dict[str, Any] = {"every": 4, "branch": 2, "mode": "quad", "last_full": True, "caching": "output"}
    built = masks().build_rule(rule="depths", depths="12 1,0;3", start_percent=0.1, end_percent=0.9, **want)
    assert built == BlockSkip(rule="depths", depths=(12, 1, 0, 3), start=0.1, end=0.9, **want)
    assert {*want, "rule", "depths", "start_percent", "end_percent"} == {i.id for i in rule_schema().inputs}


def test_every_choice_of_every_list_builds_a_rule(server: comfy.PromptServer) -> None:
    for widget in rule_schema().inputs:
        for choice in getattr(widget, "options", []):
            built = masks().build_rule(**{"depths": "12, 1", widget.id: choice})
            assert getattr(built, widget.id) == choice


WRONG = [
    {"rule": "depths", "depths": "deep"},
    {"rule": "depths", "depths": ""},
    {"rule": "depths", "depths": "9" * 30},
    {"start_percent": 0.8, "end_percent": 0.2},
]


@pytest.mark.parametrize("wrong", WRONG, ids=["word", "empty", "endless", "window"])
def test_a_wrong_setting_hands_no_mask_on(server: comfy.PromptServer, wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as error:
        masks().build_rule(**wrong)
    assert masks().SkipstoneMaskRule.run("4", **wrong) is None
    assert said(server, "4") == f"{error.value}; the image comes dense" and len(str(error.value)) < 140


# files


def test_the_loader_lists_masks_alone_and_says_where_they_go(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    def options() -> list[str]:
        return masks().SkipstoneMaskLoader.define_schema().inputs[0].options

    assert options() == ["(no mask yet: put one into models/skipstone_masks)"]
    saved(patcher, tmp_path)
    (tmp_path / "models/skipstone_masks/notes.txt").write_text("no mask")
    assert options() == ["own.safetensors"]


def test_a_loaded_mask_does_what_it_says(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    saved(patcher, tmp_path)
    mask = masks().SkipstoneMaskLoader.run("4", file="own.safetensors")
    assert said(server, "4").startswith("ldm U-Net, 10 steps x ")
    model = masks().SkipstoneBlockMask.run("5", model=patcher, mask=mask)
    assert torch.equal(sample(model), sample(patch(patcher, SKIP)))


def test_a_changed_file_is_read_anew(patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path) -> None:
    import os

    saved(patcher, tmp_path)
    before = masks().SkipstoneMaskLoader.fingerprint_inputs("own.safetensors")
    os.utime(tmp_path / "models/skipstone_masks/own.safetensors", (1, 1))
    assert before != masks().SkipstoneMaskLoader.fingerprint_inputs("own.safetensors") == 1.0
    assert masks().SkipstoneMaskLoader.fingerprint_inputs("gone.safetensors") == 0.0


def _with_header(path: Path, text: str) -> None:
    from safetensors.torch import save_file

    save_file({"run": torch.ones(1, 1, dtype=torch.uint8)}, str(path), metadata={"mask": text})


HOSTILE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "text": lambda path: path.write_text("not a mask"),
    "empty": lambda path: path.write_bytes(b""),
    "huge header": lambda path: path.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
    "nested": lambda path: _with_header(path, "[" * 100_000),
    "list": lambda path: _with_header(path, "[1]"),
    "no blocks": lambda path: _with_header(path, json.dumps({"skipstone_mask": 1, "family": "Flux"})),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path, attack: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    saved(patcher, tmp_path)
    HOSTILE[attack](tmp_path / "models/skipstone_masks/own.safetensors")
    assert masks().SkipstoneMaskLoader.run("4", file="own.safetensors") is None
    (record,) = caplog.records
    assert record.getMessage().endswith("; the image comes dense") and "\n" not in record.getMessage()


@pytest.mark.parametrize("name", ["gone.safetensors", "../../secret.safetensors", "(no mask yet: put one there)"])
def test_a_file_elsewhere_is_not_found(server: comfy.PromptServer, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.safetensors").write_text("")
    assert masks().SkipstoneMaskLoader.run("4", file=name) is None
    assert said(server, "4").startswith("there is no mask")


def test_saved_masks_are_listed_and_numbered(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    for _ in range(2):
        masks().SkipstoneMaskSaver.run("6", model=patcher, mask=SKIP, steps=7, filename_prefix="deep")
    names = masks().SkipstoneMaskLoader.define_schema().inputs[0].options
    assert names == ["deep_00001_.safetensors", "deep_00002_.safetensors"]
    assert said(server, "6").startswith("deep_00002_.safetensors: ldm U-Net, 7 steps x ")
    mask = Mask.load(tmp_path / "output/skipstone_masks" / names[0])
    assert np.array_equal(mask.run, made(patcher, 7).run) and mask.provenance["rule"] == "deepcache"


def test_a_loaded_mask_is_saved_for_other_steps(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    given = BlockSkip(mask=made(patcher))
    masks().SkipstoneMaskSaver.run("6", model=patcher, mask=given, steps=30, filename_prefix="mask")
    assert "30 steps" in said(server, "6")


def test_nothing_is_saved_outside_the_folder_or_without_a_mask(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    saver = masks().SkipstoneMaskSaver
    saver.run("6", model=patcher, mask=SKIP, steps=7, filename_prefix="../../elsewhere")
    assert "leads out of output/skipstone_masks" in said(server, "6")
    saver.run("6", model=patcher, mask=None, steps=7, filename_prefix="mask")
    assert said(server, "6") == "no mask came in: see the node before; nothing was saved"
    saver.run("6", model=comfy.ModelPatcher(Lumina2(Unknown())), mask=SKIP, steps=7, filename_prefix="mask")
    assert "Lumina2 is not supported" in said(server, "6")
    assert not list(tmp_path.rglob("*.safetensors"))


# the picture


def test_the_preview_draws_each_step_and_block(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    from skipstone.core.evaluate.heatmap import COLOURS
    from skipstone.core.plan.liveness import State
    from skipstone.nodes.mask_store import mask_of, states_of

    image = masks().SkipstoneMaskPreview.run("8", model=patcher, mask=SKIP, steps=9)
    assert image.dtype == torch.float32 and image.ndim == 4 and image.shape[::3] == (1, 3)
    assert 0.0 <= image.min() < image.max() <= 1.0
    mask, graph = mask_of(patcher, SKIP, 9)
    states = states_of(mask, graph)
    assert states.shape == (9, len(mask.blocks)) and len(mask.blocks) < len(graph), "samplers have no row"
    pixels = (image[0] * 255).round().int()
    cells = {s: int((pixels == torch.tensor(COLOURS[s])).all(-1).sum()) for s in State}
    assert {s: int((states == s).sum()) for s in State}[State.DEAD] > 0
    for s in State:
        assert cells[s] == pytest.approx(int((states == s).sum()) * 12 * 12 + 13 * 13, rel=0.2)


def test_what_cannot_be_drawn_is_written(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    model = comfy.ModelPatcher(Lumina2(Unknown()))
    for given, mask, words in ((model, SKIP, "Lumina2 is not supported"), (patcher, None, "no mask came in")):
        image = masks().SkipstoneMaskPreview.run("8", model=given, mask=mask, steps=9)
        assert image.shape[::3] == (1, 3) and words in said(server, "8")


# faces


@pytest.fixture
def schemas(server: comfy.PromptServer) -> dict[str, comfy.Schema]:
    """By node id."""
    return {name: getattr(masks(), name).define_schema() for name in IDS}


def test_every_input_has_a_tooltip_with_a_number(schemas: dict[str, comfy.Schema]) -> None:
    for name, schema in schemas.items():
        inputs = [i for i in schema.inputs if i.id != "model" or name != "SkipstoneBlockMask"]
        assert all(re.search(r"\d", i.tooltip) for i in inputs), name
        assert all(o.tooltip for o in schema.outputs) and schema.node_id == name


def test_the_english_locale_repeats_the_schemas(schemas: dict[str, comfy.Schema]) -> None:
    texts = json.loads((ROOT / "locales/en/nodeDefs.json").read_text())
    for name, schema in schemas.items():
        assert (texts[name]["display_name"], texts[name]["description"]) == (schema.display_name, schema.description)
        assert texts[name]["inputs"] == {i.id: {"name": i.id, "tooltip": i.tooltip} for i in schema.inputs}
        assert [o["tooltip"] for o in texts[name]["outputs"].values()] == [o.tooltip for o in schema.outputs]
        assert not re.search(r"[@|$]|\{|\}", json.dumps([i.tooltip for i in schema.inputs])), "read as markup"


def test_each_help_page_names_every_input_with_its_default(schemas: dict[str, comfy.Schema]) -> None:
    for name, schema in schemas.items():
        page = (ROOT / f"web/docs/{name}.md").read_text()
        assert page.startswith(f"# {schema.display_name}\n")
        rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in page.splitlines() if line.startswith("|")]
        defaults = {one: shown for names, shown in rows for one in names.split(", ")}
        for widget in schema.inputs:
            default = str(getattr(widget, "default", None) or "").split(",")[0]
            shown = {"True": "on", "False": "off"}.get(default, default)
            assert shown.removesuffix(".0") in defaults[widget.id], (name, widget.id)


def test_rare_widgets_of_the_rule_are_advanced(schemas: dict[str, comfy.Schema]) -> None:
    common = [i.id for i in schemas["SkipstoneMaskRule"].inputs if not i.as_dict().get("advanced")]
    assert common == ["rule", "every"]


def test_the_entry_point_lists_the_nodes_and_registers_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import asyncio
    import sys

    import skipstone

    async def ids() -> list[str]:
        extension = await skipstone.comfy_entrypoint()
        return [node.define_schema().node_id for node in await extension.get_node_list()]

    with comfy.installed(monkeypatch, tmp_path):
        assert asyncio.run(ids()) == ["SkipstoneTokenMerge", *IDS]
        assert [p.parent.name for p in sys.modules["folder_paths"].folders["skipstone_masks"]] == ["models", "output"]


# the workflow


def workflow(place: str) -> dict[str, Any]:
    return json.loads((ROOT / f"workflows/{place}sd15_deepcache_rule.json").read_text())


def test_both_forms_of_the_workflow_are_the_same_graph() -> None:
    ui, api = workflow(""), workflow("api/")
    nodes = {str(n["id"]): n for n in ui["nodes"] if "Note" not in n["type"]}
    assert {i: n["type"] for i, n in nodes.items()} == {i: entry["class_type"] for i, entry in api.items()}
    for node, links in linked(ui).items():
        inputs = api[node]["inputs"]
        assert links == {k: v for k, v in inputs.items() if isinstance(v, list)}
        own = [v for k, v in inputs.items() if not isinstance(v, list)]
        assert [v for v in nodes[node].get("widgets_values") or [] if v != "fixed"] == own, node


def test_the_workflows_rule_is_the_default_one_and_is_noted(schemas: dict[str, comfy.Schema]) -> None:
    ui = workflow("")
    (rule,) = [n for n in ui["nodes"] if n["type"] == "SkipstoneMaskRule"]
    widgets = schemas["SkipstoneMaskRule"].inputs
    assert [i["name"] for i in rule["inputs"]] == [w.id for w in widgets]
    assert rule["widgets_values"] == [w.default for w in widgets]
    (note,) = [n for n in ui["nodes"] if "Note" in n["type"]]
    assert "checkpoint" in note["widgets_values"][0] and "`every`" in note["widgets_values"][0]


def test_the_workflow_has_a_thumbnail() -> None:
    picture = (ROOT / "workflows/sd15_deepcache_rule.jpg").read_bytes()
    assert picture[:3] == b"\xff\xd8\xff" and len(picture) < 200_000
