"""The settings behind the widgets of the node "Token Merge (CA-ToMe)"."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from doubles import comfy

from skipstone.core.recipe.presets import preset
from skipstone.core.recipe.token_merge import TokenMerge


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


def test_importing_the_package_imports_no_host() -> None:
    import subprocess
    import sys

    code = "import sys, skipstone; skipstone.TokenMerge; print([m for m in sys.modules if 'comfy' in m or 'skipstone.nodes' in m])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_threshold_is_the_first_widget_and_a_slider(widgets: dict[str, Any]) -> None:
    name, threshold = next(iter(widgets.items()))
    assert (name, threshold.display_mode, threshold.min, threshold.max) == ("threshold", "slider", -1.0, 1.0)
    assert (threshold.default, threshold.step) == (0.7, 0.01)


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
