"""The panel as a user meets it: presets with a strength, one line on what will happen, Custom's methods, the last picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from doubles import a1111
from doubles.a1111_jobs import args_of, dense, fresh, job_of, runs
from doubles.a1111_page import Page

from skipstone.a1111_extension.infotext import infotext_of, read_infotext
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.a1111_extension.table import LEVEL_CHOICES
from skipstone.a1111_extension.view import OFFERS, methods_of
from skipstone.a1111_extension.xyz import with_axes
from skipstone.core.measure.macs import count_macs
from skipstone.core.recipe.auto import LEVELS, Auto
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.presets import preset
from skipstone.core.recipe.recipe import Recipe

pytest_plugins = ["doubles.a1111_fixtures"]

TIMES = tuple(999.0 - 90.5 * k for k in range(12))
OPENED = "The model runs at 11 of 20 steps; at the other 9 its output is forecast. At most 1.8x faster."
AMBER = "<span style='color: #c77700'>"


@pytest.fixture
def job(models: tuple[tiny.Case, tiny.Case]) -> Iterator[a1111.Job]:
    """A picture of twelve steps; nothing may be left on the U-Net."""
    yield job_of(models[0], timesteps=TIMES)
    assert list(a1111.traces(models[0].model)) == []


# -- presets --


def test_the_panel_opens_on_balanced_and_says_what_it_does(on: Page) -> None:
    assert (on["level"], on["speedup"], on.told) == ("Balanced", 1.8, OPENED)
    assert on.shown == {"strength", "window", "auto_part", "auto_expert"}


@pytest.mark.parametrize("level", LEVEL_CHOICES[:-1])
def test_a_preset_sets_the_strength_and_draws_as_auto_does(on: Page, job: a1111.Job, level: str) -> None:
    on.set("level", level)
    assert on["speedup"] == LEVELS[level.lower()]
    args = [component.value for component in on.panel.components]
    picture = on.host.process_images(on.script, job, *args)
    auto = on.host.process_images(on.script, fresh(job), *args_of(threshold=1.0, speedup=LEVELS[level.lower()]))
    assert torch.equal(picture, auto) and not torch.equal(picture, dense(on.host, job))


@pytest.mark.parametrize(("strength", "level"), [(1.0, "Gentle"), (1.5, "Gentle"), (1.6, "Balanced"), (4.0, "Fast")])
def test_the_preset_is_the_nearest_to_the_strength(on: Page, strength: float, level: str) -> None:
    on.set("speedup", strength)
    assert (on["level"], on["speedup"]) == (level, strength)


def test_a_panel_that_is_switched_off_and_on_again_keeps_its_preset(on: Page) -> None:
    for level, strength in (("Fast", 2.5), ("Custom", 1.0)):
        on.set("level", level)
        on.set("enabled", False)
        on.set("enabled", True)
        assert (on["level"], on["speedup"]) == (level, strength)


def test_an_api_call_that_names_no_preset_has_the_single_settings(page: Page, job: a1111.Job) -> None:
    """The host fills a short list of arguments with the components' first values."""
    padded = [True, 0.0, *(component.value for component in page.panel.components[2:])]
    assert PanelSettings.of_args(padded) == PanelSettings(enabled=True, threshold=0.0)
    picture = page.host.process_images(page.script, job, *padded)
    assert torch.equal(picture, page.host.process_images(page.script, fresh(job), {"enabled": True, "threshold": 0.0}))
    assert runs(page.host)[0].report.served and not runs(page.host)[0].report.calls_forecast


def test_a_preset_uses_auto_alone_whatever_custom_has(job: a1111.Job) -> None:
    custom = {"rule": "interval", "dato": "dato_b", "recipe": "{", "calls_speedup": 3.0}
    panel = PanelSettings(enabled=True, level="Fast", speedup=2.2, max_error=0.0, guard=False, **custom)
    assert panel.as_recipe() == Recipe(auto=Auto(speedup=2.2, guard=False))
    told = infotext_of(panel)
    assert told == {"Skipstone level": "Fast", "Skipstone speedup": "2.2", "Skipstone guard": "False"}


@pytest.mark.parametrize("name", ["fast", "Fast", "FAST"])
def test_a_preset_by_name_has_its_speedup(name: str) -> None:
    assert PanelSettings.of_args([{"level": name}]) == PanelSettings(level="Fast", speedup=2.5)
    assert PanelSettings.of_args([{"level": name, "speedup": 3}]) == PanelSettings(level="Fast", speedup=3.0)
    with pytest.raises(ValueError, match="level='Quick'"):
        PanelSettings.of_args([{"level": "quick"}]).as_recipe()


def test_a_preset_is_pasted_back_with_its_strength(on: Page, job: a1111.Job) -> None:
    on.set("speedup", 2.1)
    on.generate(job)
    told = dict(job.extra_generation_params)
    assert told == {"Skipstone level": "Balanced", "Skipstone speedup": "2.1", "Skipstone calls run": "50%"}
    other = Page(on.host)
    other.paste(told)
    assert (other["enabled"], other["level"], other["speedup"]) == (True, "Balanced", 2.1)
    assert "at 10 of 20 steps" in other.told


@pytest.mark.parametrize(
    "settings", [{"level": "Fast"}, {"level": "Gentle", "speedup": 1.5, "start": 0.2}, {"threshold": 0.6}]
)
def test_a_request_by_infotext_alone_has_the_same_settings(page: Page, settings: dict[str, Any]) -> None:
    panel = PanelSettings.of_args([{"enabled": True, **settings}])
    args = a1111.args_by_infotext(page.script, infotext_of(panel))
    assert PanelSettings.of_args(args) == panel


def test_infotext_from_before_the_presets_is_pasted_as_custom(page: Page) -> None:
    old = {"Skipstone threshold": "0.6", "Skipstone checkpoints": "every", "Skipstone speedup": "2"}
    page.paste(old)
    assert (page["level"], page["threshold"], page["checkpoints"], page["speedup"]) == ("Custom", 0.6, "every", 2.0)
    assert page.panel.methods.value == ["Auto", "Merge"] and "strength" in page.shown
    assert read_infotext("level")(old) == "Custom"


def test_an_axis_over_presets_and_an_axis_within_one() -> None:
    def cell(**values: Any) -> PanelSettings:
        job = type("Job", (), {f"skipstone_{name}": value for name, value in values.items()})()
        return with_axes(PanelSettings(level="Balanced", speedup=1.8), job)

    assert cell(level="Fast") == PanelSettings(enabled=True, level="Fast", speedup=2.5)
    assert cell(speedup=3.0).as_recipe().auto == Auto(speedup=3.0)
    assert cell(level="Custom", rule="interval").as_recipe().skip == BlockSkip(rule="interval")


# -- the line on what will happen --


def test_the_line_follows_steps_and_sampler(on: Page) -> None:
    on.set(on.script.steps, 28, "change")
    assert "at 16 of 28 steps" in on.told and "At most 1.8x faster." in on.told
    on.set(on.script.sampling, "LCM", "change")
    assert on.told.startswith(AMBER + "The model would run at every step: LCM is not supported")
    on.set(on.script.sampling, "Euler", "change")
    on.set(on.script.steps, 8, "change")
    assert on.told.startswith(AMBER + "The model would run at every step: 8 steps are too few")
    on.set("speedup", 1.0)
    assert on.told == AMBER + "Skipstone would do nothing: at Strength 1 the model runs at every step.</span>"


def test_a_host_that_shows_no_steps_has_the_share(host: a1111.Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.module.SkipstoneScript, "after_component", lambda *args: None)
    page = Page(host)
    page.set("enabled", True)
    assert page.told == "The model runs at 1 of 1.8 steps; at the others its output is forecast."


# -- Custom --


def test_custom_shows_the_methods_in_use_and_their_controls_only(on: Page) -> None:
    on.set("level", "Custom")
    assert on.panel.methods.value == ["Merge"] and on["speedup"] == 1.0
    assert on.shown == {"custom", "window", "merge_part", "merge_expert", "shared_expert"} & on.panel.parts.keys()
    assert on.made["custom"].visible is False
    on.set("checkpoints", "custom")
    assert on.made["custom"].visible is True


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("Auto", "speedup", 1.8),
        ("Calls", "calls_speedup", 2.0),
        ("Merge", "threshold", 0.7),
        ("Blocks", "rule", "deepcache"),
        ("Mask", "rule", "mask"),
        ("DaTo", "dato", "dato_coco"),
    ],
)
def test_a_method_that_is_chosen_alone_is_the_only_one_on(on: Page, name: str, field: str, value: Any) -> None:
    on.set("level", "Custom")
    on.choose(name)
    assert on[field] == value and on.panel.methods.value == [name]
    on.choose()
    assert on.panel.methods.value == [] and "all of its methods are off" in on.told


@pytest.mark.parametrize(
    ("first", "then", "left"),
    [
        ("Merge", "Calls", ["Calls", "Merge"]),
        ("Merge", "Blocks", ["Merge", "Blocks"]),
        ("Calls", "Auto", ["Auto"]),
        ("Auto", "Calls", ["Calls"]),
        ("Blocks", "Mask", ["Mask"]),
        ("Mask", "DaTo", ["DaTo"]),
        ("DaTo", "Merge", ["Merge"]),
        ("Merge", "Recipe", ["Merge", "Recipe"]),
    ],
)
def test_methods_combine_or_the_last_choice_counts(on: Page, first: str, then: str, left: list[str]) -> None:
    on.set("level", "Custom")
    on.choose(first)
    on.choose(first, then)
    assert on.panel.methods.value == left
    assert {f"{name.lower()}_part" for name in left} == {name for name in on.shown if name.endswith("_part")}


def test_a_recipe_is_shown_as_the_only_method(on: Page) -> None:
    on.set("level", "Custom")
    on.set("recipe", preset("dato_b").to_json(), "change")
    assert on.panel.methods.value == ["Recipe"] and "prunes tokens and skips blocks" in on.told


def test_every_setting_of_the_table_has_one_place_in_the_panel(page: Page) -> None:
    placed = [entry.name for offer in OFFERS for entry in offer.entries]
    assert len(placed) == len(set(placed)) and all(component is not None for component in page.panel.components)
    few = {offer.name: len([e for e in offer.entries if not e.expert]) for offer in OFFERS}
    assert few == {"Auto": 0, "Calls": 2, "Merge": 3, "Blocks": 4, "Mask": 1, "DaTo": 4, "Recipe": 0}


def test_methods_in_use_are_read_from_the_fields() -> None:
    assert methods_of(PanelSettings(threshold=1.0, calls_every=2, rule="fora")) == ["Calls", "Blocks"]
    assert methods_of(PanelSettings(threshold=1.0), ["Recipe"]) == ["Recipe"]


# -- the last picture --


def test_the_status_says_what_the_picture_got(on: Page, job: a1111.Job) -> None:
    assert on.generate(fresh(job)) == ["This picture: 7 of 12 calls run, 1.7x less work.", "1.7x less work last time"]
    on.set("level", "Custom")
    on.choose("Calls", "Merge")
    on.set("threshold", 0.0)
    status, header = on.generate(fresh(job))
    report = runs(on.host)[0].report
    merged = (
        f"merged {report.merged_share:.0%} ({1 - report.macs_done / report.macs_dense:.0%} of their attention saved)"
    )
    less = status.removeprefix(f"This picture: 6 of 12 calls run, {merged}, ").removesuffix(" less work.")
    assert header == f"{less} less work last time" and 2.0 < float(less.rstrip("x")) < 4.0
    on.choose("Merge", "Blocks")
    status, header = on.generate(fresh(job))
    assert status.startswith("This picture: merged ") and status.endswith("x less work in calls and blocks.")


def test_the_gain_counts_what_merging_saves_of_the_whole_network(on: Page, job: a1111.Job) -> None:
    """Compared with torch's own count of every call, searches apart."""
    on.set("level", "Custom")
    on.set("threshold", 0.0)
    per_call: list[int] = []
    run = a1111.call_unet
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(a1111, "call_unet", lambda *a, **k: _counted(per_call, run, *a, **k))
        on.generate(fresh(job))
        merged = sum(per_call)
        per_call.clear()
        on.set("enabled", False)
        on.generate(fresh(job))
    report = runs(on.host)[0].report
    outcome = on.host.module._script.OUTCOMES
    share = 1 - (sum(per_call) - merged) / sum(per_call)
    searches = report.macs_dense - report.macs_done - (sum(per_call) - merged)
    assert outcome["txt2img"].reports == {}, "the last picture was made without Skipstone"
    assert share < 0.95 and searches <= 0
    on.set("enabled", True)
    on.generate(fresh(job))
    (title,) = outcome["txt2img"].reports
    found = outcome["txt2img"].gain(title)
    assert found == pytest.approx(sum(per_call) / (merged - searches), rel=1e-3)


def _counted(per_call: list[int], run: Any, *args: Any, **kwargs: Any) -> Any:
    result: list[Any] = []
    per_call.append(count_macs(lambda: result.append(run(*args, **kwargs))))
    return result[0]


def test_the_status_has_both_passes_and_the_smaller_gain(on: Page, job: a1111.Job) -> None:
    status, header = on.generate(fresh(job, enable_hr=True))
    passes = "first pass: 7 of 12 calls run, 1.7x less work; hires pass: 7 of 12 calls run, 1.7x less work"
    assert (status, header) == (f"This picture: {passes}.", "1.7x less work last time")


def test_the_status_says_off_and_refused_and_never_an_earlier_pictures_figures(on: Page, job: a1111.Job) -> None:
    on.generate(fresh(job))
    few = fresh(job, timesteps=TIMES[:5])
    says = "This picture: Skipstone did nothing: 5 steps are too few to forecast any"
    status, header = on.generate(few)
    assert status.startswith(AMBER + says) and header == ""
    on.set("level", "Custom")
    on.choose("Blocks")
    on.set("rule", "depths")
    on.set("depths", "<b>")
    status, header = on.generate(fresh(job))
    assert status.startswith(AMBER) and "&lt;b&gt;" in status and "<b>" not in status and header == ""
    on.set("enabled", False)
    assert on.generate(fresh(job)) == ["This picture: Skipstone was off.", ""]


def test_a_picture_that_did_not_finish_says_so(on: Page, job: a1111.Job) -> None:
    on.generate(fresh(job))

    def fail(job: a1111.Job, step: int) -> None:
        raise RuntimeError

    on.host.on_step = fail
    with pytest.raises(RuntimeError):
        on.generate(fresh(job))
    on.panel.ended.act("click")
    assert on.panel.last_run.value == AMBER + "This picture did not finish.</span>"
    on.host.module._script.LIFECYCLE.end()


def test_the_status_of_a_tab_is_not_that_of_another_tab_or_of_the_api(on: Page, job: a1111.Job) -> None:
    before = on.generate(fresh(job))
    args = args_of(level="Fast", speedup=2.5)
    on.host.process_images(on.host.script(img2img=True), fresh(job), *args)
    api = fresh(job)
    api.is_api = True  # type: ignore[attr-defined]
    on.host.process_images(on.script, api, *args)
    on.panel.ended.act("click")
    assert [on.panel.last_run.value, on.panel.gain.value] == before


def test_a_job_within_a_job_leaves_the_outer_ones_status(on: Page, job: a1111.Job) -> None:
    outer, inner = fresh(job), fresh(job, timesteps=TIMES[:10])
    args = [component.value for component in on.panel.components]
    postprocess = on.script.postprocess_batch

    def nested(p: Any, *given: Any, **kwargs: Any) -> None:
        postprocess(p, *given, **kwargs)
        if p is outer:
            on.host.process_images(on.script, inner, *args)

    on.script.postprocess_batch = nested
    on.host.process_images(on.script, outer, *args)
    on.panel.ended.act("click")
    assert on.panel.last_run.value == "This picture: 7 of 12 calls run, 1.7x less work."
