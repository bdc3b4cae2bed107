"""DaTo in the A1111 panel and tab, and the axes of its X/Y/Z plot."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import args_of, dense, fresh, refused

from skipstone.a1111_extension.infotext import MERGED
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.a1111_extension.table import CUSTOM
from skipstone.core.recipe.presets import DATO, preset
from skipstone.core.recipe.recipe import Recipe

pytest_plugins = ["doubles.a1111_fixtures"]

COCO: dict[str, Any] = {"threshold": 1.0, "dato": "dato_coco"}

# -- settings --


@pytest.mark.parametrize("name", list(DATO))
@pytest.mark.parametrize(
    "change", [{}, {"ratio": 0.25}, {"ratio": (0.5, 0.25, 0.0)}, {"recover_from": "base"}], ids=str
)
def test_any_dato_recipe_is_said_by_the_panel(name: str, change: dict[str, Any]) -> None:
    recipe = preset(name)
    assert recipe.prune is not None
    recipe = replace(recipe, prune=replace(recipe.prune, **change))
    panel = PanelSettings.of_recipe(recipe)
    assert panel.as_recipe().prune == recipe.prune and panel.as_recipe().skip == recipe.skip
    assert bool(panel.recipe) == (name == "dato_reference")
    unlisted = name == "dato_gentle" or isinstance(recipe.prune.ratio, tuple)
    assert panel.recipe or (panel.dato == CUSTOM) == unlisted


def test_window_level_and_matching_are_those_of_the_panel() -> None:
    recipe = PanelSettings(**COCO, start=0.2, end=0.8, matching="local", max_downsample="2").as_recipe()
    prune, skip = recipe.prune, recipe.skip
    assert prune is not None and skip is not None
    assert (prune.start, prune.end, prune.matching, prune.max_downsample) == (0.2, 0.8, "local", 2)
    assert (skip.start, skip.end) == (0.2, 0.8)
    assert PanelSettings.of_recipe(recipe).recipe == PanelSettings.of_recipe(replace(recipe, merge=None)).recipe == ""


# -- panel, tab and axes --


def told(script: Any, changed: a1111.Component, **values: Any) -> str:
    """The panel's line once a control has changed."""
    for component, value in zip(script.components, args_of(**values), strict=True):
        component.value = value
    changed.act("change")
    return str(changed.events["change"][-1]["outputs"][-1].value)


def field(script: Any, name: str) -> a1111.Component:
    return script.components[list(PanelSettings.__dataclass_fields__).index(name)]


def test_the_panel_says_at_once_what_cannot_run(host: a1111.Host) -> None:
    script = host.script()
    for name in ("threshold", "rule", "dato", "recipe", "ratio", "ratios", "dato_depths", "depths", "mask"):
        says = partial(told, script, field(script, name))
        assert says(**COCO) == "Skipstone prunes tokens and skips blocks: what it saves is shown after a picture."
        assert "set Threshold to 1" in says(dato="dato_coco")
        assert "all of its methods are off" in says(threshold=1.0)
        assert "&lt;b&gt;" in says(rule="depths", depths="<b>")


def test_the_tabs_controls_leave_what_they_do_not_show_as_it_is(host: a1111.Host) -> None:
    for img2img in (False, True):
        host.script(img2img)
    host.fire("on_ui_tabs")
    released = preset("dato_reference")
    released = replace(released, skip=replace(released.skip, split=True, end=0.5))  # type: ignore[type-var]
    host.made["skipstone_tab_recipe"].set(released.to_json())
    host.made["skipstone_tab_memory_budget"].set(64)
    host.made["skipstone_tab_ratio"].set(0.2)
    recipe = Recipe.from_json(host.made["skipstone_tab_recipe"].value)
    assert recipe.prune == replace(released.prune, ratio=0.2)  # type: ignore[type-var]
    assert recipe.skip == replace(released.skip, memory_budget=64.0)  # type: ignore[type-var]


def axes(host: a1111.Host) -> dict[str, Any]:
    host.fire("on_before_ui")
    return {axis.label.removeprefix("[Skipstone] "): axis for axis in host.xyz.axis_options}


@pytest.mark.parametrize("panel", [(False,), (True,), args_of(recipe=preset("balanced").to_json())], ids=str)
def test_an_axis_over_presets(host: a1111.Host, job: a1111.Job, panel: tuple[Any, ...]) -> None:
    direct = host.process_images(host.script(), fresh(job), *args_of(**{**COCO, "dato": "dato_c"}))
    off = host.process_images(host.script(), fresh(job), *panel)
    for value, picture in (("dato_c", direct), ("off", off)):
        cell = fresh(job)
        axes(host)["DaTo"].apply(cell, value, [])
        assert torch.equal(host.process_images(host.script(), cell, *panel), picture)
        assert refused(cell) == []


def test_an_axis_over_ratios(host: a1111.Host, job: a1111.Job) -> None:
    for ratio, dato, panel in ((0.25, None, (True,)), (0.5, None, args_of(**COCO)), (0.5, "off", args_of(**COCO))):
        cell = fresh(job)
        axes(host)["DaTo ratio"].apply(cell, ratio, [])
        if dato:
            axes(host)["DaTo"].apply(cell, dato, [])
        x = host.process_images(host.script(), cell, *panel)
        told = cell.extra_generation_params
        assert told.get("Skipstone ratio") == (None if dato else f"{ratio:g}") and MERGED not in told
        assert torch.equal(x, dense(host, job)) == bool(dato)
