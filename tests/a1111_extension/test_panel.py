"""The A1111 panel: its arguments and defaults, infotext written and pasted, the labels of a U-Net call's rows."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from types import SimpleNamespace
from typing import Any

import pytest
from doubles import a1111
from hypothesis import given
from hypothesis import strategies as st

from skipstone.a1111_extension.host import Step
from skipstone.a1111_extension.infotext import infotext_of, read_infotext
from skipstone.a1111_extension.labels import StepRows
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.a1111_extension.table import CUSTOM, FIELDS, TABLE, Entry
from skipstone.core.errors import SkipstoneError
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.fields import field_of, label_of
from skipstone.core.recipe.presets import preset
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

pytest_plugins = ["doubles.a1111_fixtures"]

ROOM = (a1111.ROOT / "a1111_extension").glob("*.py")


# -- the panel --


def test_the_order_of_the_arguments_is_the_public_one(host: a1111.Host) -> None:
    ids = [c.elem_id.removeprefix("script_img2img_skipstone_") for c in host.script(img2img=True).components]
    assert ids == [
        "enable",
        "threshold",
        "checkpoints",
        "custom",
        "passes",
        "matching",
        "proportional",
        "destination",
        "batch",
        "max_downsample",
        "merge_in",
        "start",
        "end",
        "recipe",
        "rule",
        "every",
        "branch",
        "depths",
        "mask",
        "last_full",
        "memory_budget",
        "offload",
        "forecast",
        "dato",
        "ratio",
        "ratios",
        "dato_depths",
        "recover_from",
        "stride",
        "gamma",
        "alpha",
        "seed",
        "mode",
        "caching",
        "split",
        "speedup",
        "max_error",
        "profile",
        "guard",
        "calls_speedup",
        "calls",
        "calls_every",
        "keys",
        "calls_rule",
        "space",
        "predictor",
        "warmup",
        "tail",
        "max_gap",
        "calls_threshold",
        "calls_profile",
        "record",
        "level",
        "first_pass",
        "hires_pass",
        "hires_level",
        "hires_speedup",
    ]


def test_the_panel_shows_the_defaults_of_its_settings(host: a1111.Host) -> None:
    values = [c.value for c in host.script().components]
    assert values == [*{**asdict(PanelSettings()), "level": ""}.values()], "an API call that names no preset has none"
    assert PanelSettings.of_args(values) == PanelSettings()
    assert values[0] is False
    assert PanelSettings().as_recipe().merge == TokenMerge()


def test_the_choices_that_the_panel_offers_are_taken(host: a1111.Host) -> None:
    for component, name in zip(host.script().components, fields(PanelSettings), strict=True):
        for choice in component.choices or ():
            if choice != CUSTOM:
                given = {"threshold": 1.0, "depths": "1 0", "mask": "some", name.name: choice}
                PanelSettings(**given).as_recipe()


def test_labels_help_and_ranges_are_those_of_the_settings(host: a1111.Host) -> None:
    for component, entry in zip(host.script().components, TABLE, strict=True):
        for method in entry.methods[:1]:
            field = field_of(method, entry.setting)
            assert component.label == (entry.title or label_of(entry.setting, field))
            assert component.info.endswith(field.help), "the web UI's own words stand before the setting's, if at all"
            if component.kind == "Slider":
                assert (component.minimum, component.maximum) == (field.usual or (field.low, field.high))
    written = {path.name: re.findall(r"gr\.(?:Slider|Number|Checkbox)\(", path.read_text("utf-8")) for path in ROOM}
    by_hand = {name for name, found in written.items() if found} - {"tab_mask.py"}
    assert by_hand == {"controls.py"}, (
        "a setting's control is written by hand; the mask's page has steps, which are none"
    )


def test_no_two_controls_have_one_label(host: a1111.Host) -> None:
    """The host keeps the user's own defaults by label: the second control of a label would get the first one's value."""
    labels = [component.label for component in host.script().components]
    assert len(set(labels)) == len(labels)


def test_a_shorter_argument_list_keeps_the_defaults() -> None:
    assert PanelSettings.of_args([True, 0.4]) == PanelSettings(enabled=True, threshold=0.4)
    assert PanelSettings.of_args([True, None, "every"]) == PanelSettings(enabled=True, checkpoints="every")
    assert PanelSettings.of_args([*asdict(PanelSettings()).values(), "of a newer version"]) == PanelSettings()


def test_settings_refuse_what_no_recipe_can_say() -> None:
    with pytest.raises(SkipstoneError, match="merge_in='everywhere'"):
        PanelSettings(merge_in="everywhere").as_recipe()


# -- infotext --


def runs(panel: PanelSettings) -> bool:
    """Is it free of contradictions, such as merging and pruning of the same tokens?"""
    try:
        panel.as_recipe()
    except SkipstoneError:
        return False
    return True


TEXTS: dict[str, list[str]] = {
    "custom": ["0", "0, 8, 11"],
    "recipe": ["", "", preset("reference").to_json(), Recipe(skip=BlockSkip(mode="quad", rectify="off")).to_json()],
    "depths": ["0", "12, 1, 1, 0", "1 0"],
    "mask": ["a.safetensors", "sub/b, c.safetensors"],
    "ratios": ["", "0.4, 0.25 0", "0.123456789"],
    "dato_depths": ["", "12, 1, 1, 0"],
    "keys": ["", "", "", "0, 1, 3 19"],
    "profile": ["", "p.safetensors"],
    "calls_profile": ["", "", "p.safetensors"],
}
PARTICULAR = {
    "passes": st.just("both passes"),
    "enabled": st.just(True),
    "threshold": st.integers(-100, 100).map(lambda n: n / 100) | st.just(1.0),
    "start": st.sampled_from([0, 0.0, 0.25]),
    "end": st.sampled_from([1, 1.0, 0.75]),
    "speedup": st.sampled_from([1.0, 1.0, 2.0]),
    "max_error": st.sampled_from([0.0, 0.0, 0.03]),
    "calls_rule": st.sampled_from(["even", "even", "growing", "easycache"]),
    "calls": st.sampled_from([0, 0, 0, 7]),
    "calls_every": st.sampled_from([0, 0, 0, 2]),
    "level": st.sampled_from(["Custom", "Custom", "Gentle", "Fast"]),
    **{name: st.sampled_from(texts) for name, texts in TEXTS.items()},
}


def values_of(entry: Entry) -> st.SearchStrategy[Any]:
    """Values that a field takes, from its description."""
    if isinstance(entry.default, bool):
        return st.booleans()
    if entry.choices:
        return st.sampled_from(entry.choices)
    low, high = entry.field.usual or (entry.field.low, min(entry.field.high, 2**53))
    if isinstance(entry.default, int):
        return st.integers(int(low), int(high))
    return st.integers(int(4 * low), int(4 * high)).map(lambda n: n / 4)


PANELS = st.builds(
    PanelSettings, **{e.name: PARTICULAR[e.name] if e.name in PARTICULAR else values_of(e) for e in TABLE}
)
PANELS = PANELS.filter(runs)


@given(PANELS)
def test_infotext_pastes_back_the_same_settings(panel: PanelSettings) -> None:
    params = a1111.parse_infotext(a1111.write_infotext({"Steps": 20, **infotext_of(panel), "Version": "1.10.1"}))
    pasted = PanelSettings(**{f.name: read_infotext(f.name)(params) for f in fields(PanelSettings)})
    assert pasted.enabled is True
    for hires in (False, True):
        assert pasted.recipe_of(hires).methods == panel.recipe_of(hires).methods


def test_infotext_holds_only_what_is_not_default() -> None:
    assert infotext_of(PanelSettings(True, start=0, end=1)) == {
        "Skipstone threshold": "0.7",
        "Skipstone checkpoints": "config_3",
    }
    told = infotext_of(PanelSettings(True, rule="deepcache", depths="1 0", mask="unread"))
    assert list(told.items())[2:] == [("Skipstone rule", "deepcache"), ("Skipstone every", "3")]
    assert "Skipstone every" not in infotext_of(PanelSettings(True, every=5, branch=1, last_full=True))


def test_a_dense_picture_pasted_switches_the_panel_off_and_leaves_the_rest(host: a1111.Host) -> None:
    script = host.script()
    params = a1111.parse_infotext("Steps: 20, Sampler: Euler, Version: 1.10.1")
    assert [read(params) for _, read in script.infotext_fields] == [False] + [None] * (len(FIELDS) - 1)


def test_both_tabs_name_their_fields_alike_for_send_to_img2img(host: a1111.Host) -> None:
    here, there = host.script(), host.script(img2img=True)
    sent = [component for component, name in here.infotext_fields if name in there.paste_field_names]
    assert sent == here.components


# -- labels --


def test_rows_are_known_by_their_place_in_the_step() -> None:
    rows = StepRows()
    keys = []
    for calls in ([4], [2, 2], [1, 1, 1, 1], [3, 1], [2]):
        rows.new_step(2)
        keys.append([(s.key, s.rows) for call in calls for s in rows.label(500.0, call)])
    assert keys[0] == keys[1] == [(("cond", 0), 2), (("uncond", 0), 2)]
    assert keys[2] == [(("cond", 0), 1), (("cond", 1), 1), (("uncond", 0), 1), (("uncond", 1), 1)]
    assert keys[3] == [(("cond", 0), 2), (("uncond", 0), 1), (("uncond", 1), 1)]
    assert keys[4] == [(("cond", 0), 2)]


def test_forge_says_which_chunks_are_conds() -> None:
    rows = StepRows()
    for _ in range(2):
        rows.new_step(None)
        keys = [s.key for s in (*rows.label(500.0, 4, [1, 0]), *rows.label(500.0, 2, [0]))]
        assert keys == [("chunk", 1, 1), ("chunk", 0, 1), ("chunk", 0, 2)]


def test_a_sampler_without_callbacks_is_told_by_its_timesteps() -> None:
    rows = StepRows()
    keys = [rows.label(t, 1)[0].key for t in (900.0, 900.0, 700.0, 700.0)]
    assert keys == [("row", 0), ("row", 1)] * 2


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 6))
def test_labels_cover_all_rows(calls: list[int], conds: int) -> None:
    rows = StepRows()
    rows.new_step(conds)
    labelled = [rows.label(500.0, n) for n in calls]
    assert [sum(s.rows for s in streams) for streams in labelled] == calls
    keys = [s.key for streams in labelled for s in streams]
    assert len(keys) == len(set(keys))


def steps_of(made: int, steps: int | None, total: int | None, real: int | None = None) -> list[Step]:
    return [Step.of(SimpleNamespace(step=k, steps=steps, total_steps=total), real) for k in range(made)]


def test_the_last_step_goes_by_the_schedule_else_by_the_hosts_count() -> None:
    def last(**counts: int) -> list[int]:
        return [k for k, step in enumerate(steps_of(**counts)) if step.last]

    assert last(made=5, steps=5, total=5) == [4]
    assert last(made=9, steps=5, total=10) == [8], "Heun makes one evaluation in its last step"
    assert last(made=60, steps=5, total=5) == [4], "an adaptive sampler goes on: not all of its calls are the last"
    assert last(made=19, steps=20, total=20, real=19) == [18], "DDIM makes one step fewer than asked for"
    assert steps_of(made=1, steps=None, total=None) == [Step()]


def test_all_evaluations_of_a_step_have_its_number() -> None:
    def numbers(**counts: int) -> list[int | None]:
        return [step.number for step in steps_of(**counts)]

    assert numbers(made=5, steps=5, total=5) == [0, 1, 2, 3, 4]
    assert numbers(made=5, steps=3, total=6) == [0, 0, 1, 1, 2]
