"""The Skipstone tab in A1111, and the axes of its X/Y/Z plot."""

from __future__ import annotations

import sys

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import LAYERS, ON, args_of, dense, fresh, runs

from skipstone.a1111_extension.settings import (
    BOTH,
    CUSTOM,
    OFF,
    SKIP_FIELDS,
    PanelSettings,
)
from skipstone.core.recipe import Recipe, TokenMerge, preset

pytest_plugins = ["doubles.a1111_fixtures"]


# -- the tab --


@pytest.fixture
def tab(host: a1111.Host) -> dict[str, a1111.Component]:
    """The tab's components by elem_id, both panels built before it as the host does."""
    for img2img in (False, True):
        host.script(img2img)
    ((block, title, name),) = host.fire("on_ui_tabs")[0]
    assert (title, name) == ("Skipstone", "skipstone") and block is host.made["Blocks"]
    return host.made


def test_the_tab_shows_the_last_run_and_both_panels_follow(
    host: a1111.Host, tab: dict[str, a1111.Component], job: a1111.Job
) -> None:
    assert "No run yet" in tab["skipstone_refresh"].fire("click")
    script = host.script()
    assert script.log.fire("change") == "No run yet."
    host.process_images(script, job, *ON)
    shown = tab["Blocks"].fire("load")
    assert shown == tab["skipstone_refresh"].fire("click")
    assert "in 3 layers, 5 calls" in shown and shown.count("<tr>") == 1 + LAYERS
    assert script.log.fire("change").startswith("Last run: merged ")


def test_the_report_keeps_a_few_runs_and_escapes_their_text(host: a1111.Host, job: a1111.Job) -> None:
    history = host.module._script.HISTORY
    for _ in range(6):
        host.process_images(host.script(), fresh(job), *ON)
    assert len(runs(host)) == 4
    runs(host)[0].report.notes.append("<script>")
    page = sys.modules["_skipstone_webui.a1111_extension.history"].page(history)
    assert page.count("<li>") == 3 and "&lt;script&gt;" in page and "<script>" not in page


def test_the_tab_sends_what_its_controls_say(host: a1111.Host, tab: dict[str, a1111.Component]) -> None:
    recipe = tab["skipstone_tab_recipe"].value
    text, told = tab["skipstone_tab_threshold"].fire("input", recipe, 0.55, CUSTOM, "0 8 11")
    assert told == ""
    told, *values = tab["skipstone_send_txt2img"].fire("click", text)
    assert told == "Sent: Skipstone is on in txt2img."
    assert values[4] == {"__type__": "update"}, "the panel's hires switch stays as it is"
    values[4] = BOTH
    panel = PanelSettings.of_args(values)
    assert panel.enabled and panel.recipe == ""
    assert panel.as_recipe().merge == TokenMerge(threshold=0.55, checkpoints=(0, 8, 11))


@pytest.mark.parametrize("name", ["ca_tome", "balanced", "reference", "ca_tome:config_1"])
def test_any_recipe_can_be_sent_to_the_panel(host: a1111.Host, tab: dict[str, a1111.Component], name: str) -> None:
    _, *values = tab["skipstone_send_img2img"].fire("click", preset(name).to_json())
    values[4] = BOTH
    assert PanelSettings.of_args(values).as_recipe().merge == preset(name).merge


def test_presets_fill_the_tabs_controls(tab: dict[str, a1111.Component]) -> None:
    for choice in tab["skipstone_tab_preset"].choices:
        text, threshold, checkpoints, custom, *rest = tab["skipstone_tab_preset"].fire("input", choice)
        recipe = Recipe.from_json(text)
        skip, dato = rest[: len(SKIP_FIELDS)], rest[len(SKIP_FIELDS) :]
        left = {name: getattr(PanelSettings, name) for name in SKIP_FIELDS}
        assert dict(zip(SKIP_FIELDS, skip, strict=True)) == left | {"forecast": choice.startswith("dato_gentle")}
        if choice.startswith("dato"):
            assert threshold == 1.0 and dato[0] != OFF and recipe == preset(choice.split(":")[0])
        else:
            assert recipe.merge is not None and recipe.skip is None and dato[0] == OFF
            assert (threshold, checkpoints, custom) == (recipe.merge.threshold, recipe.merge.checkpoints, "")


def test_a_broken_recipe_is_told_and_changes_nothing(tab: dict[str, a1111.Component]) -> None:
    told, *values = tab["skipstone_send_txt2img"].fire("click", "{")
    assert "recipe is not JSON" in told and values == [{"__type__": "update"}] * 28
    value, told = tab["skipstone_tab_custom"].fire("input", preset("ca_tome").to_json(), 0.7, CUSTOM, "<b>")
    assert value == {"__type__": "update"} and "&lt;b&gt;" in told


# -- axes --


def test_axes_are_added_once_and_set_the_job_not_the_options(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    host.fire("on_before_ui")
    names = ["Threshold", "Checkpoints", "Block rule every", "DaTo", "DaTo ratio"]
    assert [axis.label for axis in host.xyz.axis_options] == [f"[Skipstone] {name}" for name in names]
    threshold, checkpoints, *_ = host.xyz.axis_options
    threshold.apply(job, 0.25, [0.25])
    checkpoints.apply(job, "0 8 20", ["0 8 20"])
    host.process_images(host.script(), job, False)
    assert job.extra_generation_params["Skipstone threshold"] == "0.25"
    assert job.extra_generation_params["Skipstone checkpoints"] == "0 8 20"
    assert runs(host)[0].report.served == LAYERS and vars(host.opts) == {}


def test_a_cell_at_threshold_one_is_dense_and_keeps_no_figure_of_another_cell(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    shared = job.extra_generation_params
    for value in (0.0, 1.0):
        cell = fresh(job, extra_generation_params=shared)
        host.xyz.axis_options[0].apply(cell, value, [])
        x = host.process_images(host.script(), cell, *ON)
    assert torch.equal(x, dense(host, job))
    assert shared == {"Skipstone threshold": "1", "Skipstone checkpoints": "config_3"}


def test_an_axis_changes_the_recipe_box_too(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    host.xyz.axis_options[0].apply(job, 0.25, [0.25])
    host.process_images(host.script(), job, *args_of(recipe=preset("reference").to_json()))
    recipe = Recipe.from_json(job.extra_generation_params["Skipstone recipe"])
    assert recipe.merge is not None and (recipe.merge.threshold, recipe.merge.batch) == (0.25, "max")


def test_wrong_axis_values_are_refused_before_the_grid_begins(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    threshold, checkpoints, every, dato, ratio = host.xyz.axis_options
    threshold.confirm(job, [0.5, 1.0])
    checkpoints.confirm(job, ["every", "0 8"])
    every.confirm(job, [1, 3])
    dato.confirm(job, dato.choices())
    ratio.confirm(job, [0.0, 0.75])
    wrong = ((threshold, [0.5, 2.0]), (checkpoints, ["soon"]), (every, [2, 0]), (dato, ["custom"]), (ratio, [0.4, 0.8]))
    for axis, bad in wrong:
        with pytest.raises(ValueError, match=r"outside|cannot be read|whole number|not one of"):
            axis.confirm(job, bad)
