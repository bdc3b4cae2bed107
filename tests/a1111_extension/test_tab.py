"""The Skipstone tab in A1111."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from doubles import a1111
from doubles.a1111_jobs import LAYERS, ON, args_of, fresh, runs

from skipstone.a1111_extension.settings import OF_PASSES, PanelSettings, effects
from skipstone.a1111_extension.table import CUSTOM, OFF, TABLE
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.presets import preset
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

SHOWN = [entry.name for entry in TABLE if entry.name not in ("enabled", "level", "passes", "recipe", *OF_PASSES)]
BLOCKS = [entry.name for entry in TABLE if entry.group is BlockSkip]

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


def last_of(host: a1111.Host) -> list[str]:
    """Status and header of the panel, once a picture is done."""
    panel = host.module._script.PANELS["txt2img"]
    panel.ended.act("click")
    return [panel.last_run.value, panel.gain.value]


def test_the_last_run_is_shown_and_both_panels_follow(
    host: a1111.Host, tab: dict[str, a1111.Component], job: a1111.Job
) -> None:
    tab["skipstone_refresh"].act("click")
    assert "No run yet" in tab["skipstone_report"].value
    script = host.script()
    assert last_of(host) == ["No picture yet.", ""]
    host.process_images(script, job, *ON)
    for component, event in ((tab["skipstone_refresh"], "click"), (tab["Blocks"], "load")):
        tab["skipstone_report"].value = ""
        component.act(event)
        assert "in 3 layers, saved" in tab["skipstone_report"].value
    assert last_of(host)[0].startswith("This picture: merged ")


def pages() -> Any:
    return sys.modules["_skipstone_webui.a1111_extension.tab_runs"]


def test_the_last_runs_are_kept_and_each_is_shown_by_its_name(
    host: a1111.Host, tab: dict[str, a1111.Component], job: a1111.Job
) -> None:
    """As many as Settings > Skipstone says."""
    host.opts.skipstone_runs = 4
    for _ in range(6):
        host.process_images(host.script(), fresh(job), *ON)
    tab["skipstone_refresh"].act("click")
    names = tab["skipstone_run"].choices
    assert len(runs(host)) == 4 and len(names) == 5 and names[1].startswith("Run 6, ")
    assert names[1] in tab["skipstone_report"].value
    tab["skipstone_run"].set(names[4])
    assert names[4].startswith("Run 3, ") and names[4] in tab["skipstone_report"].value
    tab["skipstone_run"].set("Run 1 <b>")
    assert "no longer kept" in tab["skipstone_report"].value and "<b>" not in tab["skipstone_report"].value


def test_text_of_a_run_is_escaped(host: a1111.Host, job: a1111.Job) -> None:
    host.process_images(host.script(), job, *ON)
    runs(host)[0].report.notes.append("<script>")
    page = pages().page(host.module._script.HISTORY)
    assert "&lt;script&gt;" in page and "<script>" not in page


def test_a_run_has_a_row_for_each_level_and_a_bar_for_each_call(host: a1111.Host, job: a1111.Job) -> None:
    """The tiny network merges at one resolution: its three layers are one level of 2 x 256 tokens a call."""
    host.process_images(host.script(), job, *args_of(threshold=0.0, rule="interval", every=2))
    run = runs(host)[0]
    (level,) = pages().by_level(run.report).items()
    assert level[0] == 512 and len(level[1]) == LAYERS
    row = pages()._row(*level)
    assert row[:3] == ("512 tokens a call", "3", f"{round(100 * run.report.merged_share)}%")
    assert [entry.ran for entry in run.log.calls] == ["partly"] * 5 and run.log.finished
    assert sum(entry.blocks_run for entry in run.log.calls) == run.report.blocks_run
    assert sum(entry.tokens for entry in run.log.calls) == sum(one.tokens for one in run.report.layers.values())


def test_the_log_of_a_run_says_which_calls_were_forecast(host: a1111.Host, job: a1111.Job) -> None:
    long = fresh(job, timesteps=tuple(999.0 - 50 * n for n in range(20)))
    host.process_images(host.script(), long, *args_of(threshold=1, keys="0 1 5 10 15 19"))
    run = runs(host)[0]
    assert [n for n, entry in enumerate(run.log.calls) if entry.ran == "full"] == [0, 1, 5, 10, 15, 19]
    assert sum(entry.ran == "forecast" for entry in run.log.calls) == run.report.calls_forecast == 14


def test_runs_are_exported_as_json(host: a1111.Host, job: a1111.Job) -> None:
    host.process_images(host.script(), job, *ON)
    (plain,) = json.loads(pages().exported(runs(host)))
    assert plain["number"] == 1 and plain["title"] == "one pass, 128 x 128" and plain["report"]["calls"] == 5
    assert [call["ran"] for call in plain["calls"]] == ["partly"] * 5
    link = re.search(
        r"download='(.*?)' href='data:application/json;base64,(.*?)'", pages().page(host.module._script.HISTORY)
    )
    assert link is not None and link[1] == "skipstone_run_1.json" and json.loads(b64decode(link[2])) == [plain]


# -- the settings --


def shown(tab: dict[str, a1111.Component]) -> PanelSettings:
    """The panel that shows what the tab's controls show."""
    names = ("level", *SHOWN)
    return PanelSettings(enabled=True, **{name: tab[f"skipstone_tab_{name}"].value for name in names})


def values_of(host: a1111.Host, tabname: str = "txt2img") -> dict[str, Any]:
    """The values of a panel's components."""
    panel = host.module._script.PANELS[tabname]
    return dict(zip((entry.name for entry in TABLE), (one.value for one in panel.components), strict=True))


def sent(host: a1111.Host, tab: dict[str, a1111.Component], tabname: str = "txt2img") -> PanelSettings | None:
    """Press "Use in"; the panel's values then, or None where nothing was sent."""
    before = values_of(host, tabname)
    for component in host.module._script.PANELS[tabname].components:
        component.value = None
    tab[f"skipstone_use_{tabname}"].act("click")
    values = values_of(host, tabname)
    if tab["skipstone_tab_told"].value:
        assert "Not used: " in tab["skipstone_tab_told"].value
        assert set(values.values()) == {None}, "a message of refusal, and something was sent"
        for component, value in zip(host.module._script.PANELS[tabname].components, before.values(), strict=True):
            component.value = value
        return None
    assert {values[name] for name in OF_PASSES} == {None}, "the panel's passes stay as they are"
    found = PanelSettings.of_args(list(values.values()))
    if tabname == "txt2img":
        bound = PanelSettings.of_args(
            list((before | {"enabled": True} | dict.fromkeys(("passes", *OF_PASSES))).values())
        )
        assert effects(bound.as_recipe()) == effects(found.as_recipe()), "the panel had other values before"
    return found


def test_the_tab_sends_what_its_controls_say(host: a1111.Host, tab: dict[str, a1111.Component]) -> None:
    for name, value in (("threshold", 0.55), ("checkpoints", CUSTOM), ("custom", "0 8 11")):
        tab[f"skipstone_tab_{name}"].set(value)
    panel = sent(host, tab)
    assert panel is not None and panel.enabled and panel.recipe == ""
    assert panel.as_recipe() == Recipe(merge=TokenMerge(threshold=0.55, checkpoints=(0, 8, 11)))


def test_a_rule_is_sent_beside_merging(host: a1111.Host, tab: dict[str, a1111.Component]) -> None:
    for name, value in (("rule", "deepcache"), ("every", 4), ("branch", 1), ("last_full", True), ("threshold", 0.5)):
        tab[f"skipstone_tab_{name}"].set(value)
    panel = sent(host, tab)
    assert panel is not None and panel.recipe == "" and panel.as_recipe().merge == TokenMerge(threshold=0.5)
    assert panel.as_recipe().skip == BlockSkip(every=4, branch=1, last_full=True)


@pytest.mark.parametrize(
    ("choices", "left"),
    [
        ([("dato", "dato_b"), ("threshold", 0.6)], {"threshold": 0.6, "dato": OFF, "rule": OFF}),
        ([("threshold", 0.6), ("dato", "dato_b")], {"threshold": 1.0, "dato": "dato_b", "rule": OFF}),
        ([("rule", "interval"), ("dato", "dato_b")], {"threshold": 1.0, "dato": "dato_b", "rule": OFF}),
        ([("dato", "dato_b"), ("rule", "interval")], {"threshold": 1.0, "dato": OFF, "rule": "interval"}),
        ([("rule", "interval"), ("dato", CUSTOM)], {"threshold": 1.0, "dato": CUSTOM, "rule": "interval"}),
        (
            [("dato", CUSTOM), ("rule", "interval"), ("dato_depths", "1 0")],
            {"threshold": 1.0, "dato": CUSTOM, "rule": OFF},
        ),
        ([("dato", "dato_b"), ("ratio", 0.0), ("threshold", 0.6)], {"threshold": 0.6, "dato": "dato_b", "rule": OFF}),
        (
            [("dato", "dato_b"), ("ratio", 0.0), ("threshold", 0.6), ("ratio", 0.3)],
            {"threshold": 1.0, "dato": "dato_b", "rule": OFF},
        ),
    ],
    ids=str,
)
def test_the_choice_made_last_counts_and_is_what_is_sent(
    host: a1111.Host, tab: dict[str, a1111.Component], choices: list[tuple[str, Any]], left: dict[str, Any]
) -> None:
    panel = {
        c.elem_id.removeprefix("script_txt2img_skipstone_"): c for c in host.module._script.PANELS["txt2img"].components
    }
    for name, value in choices:
        tab[f"skipstone_tab_{name}"].set(value)
        panel[name].set(value)
    assert {name: panel[name].value for name in left} == left, "the panel itself has another rule"
    found = sent(host, tab)
    assert found is not None and {name: getattr(found, name) for name in left} == left
    assert {name: getattr(shown(tab), name) for name in left} == left


VALUES: dict[str, list[Any]] = {
    "threshold": [0.3, 0.7, 1.0, "x"],
    "checkpoints": ["config_1", CUSTOM],
    "custom": ["0 8", "eight", ""],
    "rule": [OFF, "deepcache", "depths", "mask"],
    "every": [1, 3, 2.5],
    "depths": ["1 0", "", "<b>"],
    "mask": ["", "a.safetensors"],
    "forecast": [True, False],
    "dato": [OFF, "dato_c", CUSTOM],
    "ratio": [0.0, 0.4],
    "ratios": ["", "0.4 0"],
    "dato_depths": ["", "12 1"],
}


def test_whatever_is_clicked_what_is_shown_is_sent_or_nothing_is(
    host: a1111.Host, tab: dict[str, a1111.Component]
) -> None:
    choices, outcomes = Random(0), Counter[bool]()
    for _ in range(300):
        name = choices.choice(list(VALUES))
        tab[f"skipstone_tab_{name}"].set(choices.choice(VALUES[name]))
        panel = sent(host, tab)
        outcomes[panel is not None] += 1
        if panel is not None:
            assert effects(panel.as_recipe()) == effects(Recipe.from_json(tab["skipstone_tab_recipe"].value))
            assert effects(panel.as_recipe()) == effects(shown(tab).as_recipe())
    assert min(outcomes[True], outcomes[False]) > 30


@pytest.mark.parametrize(
    "name", ["ca_tome", "balanced", "reference", "ca_tome:config_1", "dato_reference", "dato_gentle"]
)
def test_a_recipe_pasted_sets_the_controls_and_is_sent_whole(
    host: a1111.Host, tab: dict[str, a1111.Component], name: str
) -> None:
    tab["skipstone_tab_dato"].set("dato_b")
    tab["skipstone_tab_recipe"].set(preset(name).to_json())
    panel = sent(host, tab, "img2img")
    assert panel is not None and effects(panel.as_recipe()) == effects(preset(name))
    assert shown(tab).threshold == (1.0 if "dato" in name else 0.7)


@pytest.mark.parametrize(
    "recipe", [Recipe(skip=BlockSkip(rule="fora", every=4)), Recipe(skip=BlockSkip(rectify="off", branch=2))]
)
def test_what_the_tab_cannot_show_stays_when_another_control_is_set(
    host: a1111.Host, tab: dict[str, a1111.Component], recipe: Recipe
) -> None:
    tab["skipstone_tab_recipe"].set(recipe.to_json())
    tab["skipstone_tab_threshold"].set(0.5)
    panel = sent(host, tab)
    assert panel is not None and panel.as_recipe() == replace(recipe, merge=TokenMerge(threshold=0.5))
    tab["skipstone_tab_rule"].set("interval")
    panel = sent(host, tab)
    assert panel is not None and recipe.skip is not None
    skip = replace(recipe.skip, rule="interval", branch=panel.as_recipe().skip.branch)  # type: ignore[union-attr]
    assert panel.as_recipe() == Recipe(merge=TokenMerge(threshold=0.5), skip=skip)


def test_a_window_of_one_method_stays_until_another_one_is_chosen(
    host: a1111.Host, tab: dict[str, a1111.Component]
) -> None:
    """The window's controls are for all methods. A recipe in which each has its own keeps them."""
    recipe = Recipe(merge=TokenMerge(start=0.25), skip=BlockSkip(rule="interval", end=0.5))
    tab["skipstone_tab_recipe"].set(recipe.to_json())
    assert (shown(tab).start, shown(tab).end) == (0.25, 1.0)
    tab["skipstone_tab_every"].set(2)
    panel = sent(host, tab)
    assert panel is not None and panel.as_recipe() == replace(recipe, skip=replace(recipe.skip, every=2))  # type: ignore[type-var]
    tab["skipstone_tab_end"].set(0.75)
    panel = sent(host, tab)
    assert panel is not None
    assert [(m.start, m.end) for m in panel.as_recipe().methods] == [(0.25, 0.75), (0.0, 0.75)]


def test_presets_fill_the_tabs_controls(host: a1111.Host, tab: dict[str, a1111.Component]) -> None:
    for choice in tab["skipstone_tab_preset"].choices:
        tab["skipstone_tab_preset"].set(choice)
        recipe, panel = Recipe.from_json(tab["skipstone_tab_recipe"].value), shown(tab)
        left = {name: getattr(PanelSettings, name) for name in BLOCKS}
        assert {name: getattr(panel, name) for name in BLOCKS} == left | {"forecast": choice.startswith("dato_gentle")}
        if choice.startswith("dato"):
            assert panel.threshold == 1.0 and panel.dato != OFF and recipe == preset(choice.split(":")[0])
        else:
            assert recipe.merge is not None and recipe.skip is None and panel.dato == OFF
            assert (panel.threshold, panel.checkpoints) == (recipe.merge.threshold, recipe.merge.checkpoints)
        assert sent(host, tab) is not None


def test_a_broken_recipe_is_told_and_changes_nothing(host: a1111.Host, tab: dict[str, a1111.Component]) -> None:
    before = shown(tab)
    tab["skipstone_tab_recipe"].set('{"skipstone": 1, "methods": [], "<b>": 1}')
    assert "&lt;b&gt;" in tab["skipstone_tab_told"].value and shown(tab) == before
    assert sent(host, tab) is None and "&lt;b&gt;" in tab["skipstone_tab_told"].value


def test_a_value_that_cannot_run_is_told_and_not_sent(host: a1111.Host, tab: dict[str, a1111.Component]) -> None:
    tab["skipstone_tab_checkpoints"].set(CUSTOM)
    tab["skipstone_tab_custom"].set("<b>")
    assert "&lt;b&gt;" in tab["skipstone_tab_told"].value
    assert sent(host, tab) is None and "&lt;b&gt;" in tab["skipstone_tab_told"].value
    tab["skipstone_tab_custom"].set("0 9")
    panel = sent(host, tab)
    assert panel is not None and panel.as_recipe() == Recipe(merge=TokenMerge(checkpoints=(0, 9)))


# -- the pages follow the jobs --


def test_each_run_changes_the_text_that_the_pages_wait_for(host: a1111.Host, job: a1111.Job) -> None:
    """The host's line below the picture has the comments of the job and the time it took, to a tenth of a second. Panel
    and tab refresh when it changes, so two jobs of the same settings must differ in their comments."""
    jobs = [fresh(job) for _ in range(3)]
    for one in jobs:
        host.process_images(host.script(), one, *ON)
    lines = [text for one in jobs for text in one.comments]
    assert len(set(lines)) == len(lines) == 3
    assert all(line.startswith(f"Skipstone, run {n}, one pass, 128 x 128: merged ") for n, line in enumerate(lines, 1))
    idle = fresh(job)
    host.process_images(host.script(), idle, *args_of(threshold=0.0, start=0.99, end=0.999))
    assert "Skipstone, run 4, one pass, 128 x 128: nothing was merged, pruned or skipped in 5 calls" in " ".join(
        idle.comments
    )
