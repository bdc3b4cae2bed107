"""The first pass and the hires pass: each off or as the panel is set, and the hires pass with a strength of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import args_of, dense, fresh
from doubles.a1111_page import Page

from skipstone.a1111_extension.infotext import CALLS_RUN, REFUSED, infotext_of
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.a1111_extension.xyz import with_axes
from skipstone.core.recipe.auto import LEVELS, Auto

pytest_plugins = ["doubles.a1111_fixtures"]

TIMES = tuple(999.0 - 90.5 * k for k in range(12))


@pytest.fixture
def hires(job: a1111.Job) -> a1111.Job:
    """A small picture of two passes of twelve steps."""
    return fresh(job, latent=job.latent[..., :8, :8], timesteps=TIMES, enable_hr=True)


@pytest.mark.parametrize(
    ("passes", "calls", "pasted"),
    [
        ({}, "58% / 58%", {}),
        ({"first_pass": "off"}, "58%", {"first pass": "off"}),
        ({"hires_pass": "off"}, "58%", {"hires pass": "off"}),
        ({"passes": "hires pass only"}, "58%", {"first pass": "off"}),
        ({"passes": "first pass only"}, "58%", {"hires pass": "off"}),
        (
            {"hires_pass": "own", "hires_level": "Fast"},
            "58% / 42%",
            {"hires pass": "own", "hires level": "Fast", "hires speedup": "2.5"},
        ),
        (
            {"first_pass": "off", "hires_pass": "own", "hires_speedup": 3},
            "33%",
            {"first pass": "off", "hires pass": "own", "hires level": "Balanced", "hires speedup": "3"},
        ),
    ],
    ids=str,
)
def test_each_pass_runs_the_calls_that_it_is_set_to(
    host: a1111.Host, hires: a1111.Job, passes: dict[str, Any], calls: str, pasted: dict[str, str]
) -> None:
    host.process_images(host.script(), hires, {"enabled": True, "level": "Balanced", **passes})
    told = dict(hires.extra_generation_params)
    assert told.pop(CALLS_RUN) == calls and REFUSED not in told
    assert told == {f"Skipstone {k}": v for k, v in {"level": "Balanced", "speedup": "1.8", **pasted}.items()}
    other = Page(host)
    other.paste(told)
    again = PanelSettings.of_args([component.value for component in other.panel.components])
    asked = PanelSettings.of_args([{"enabled": True, "level": "Balanced", **passes}])
    assert [again.recipe_of(hires) for hires in (False, True)] == [asked.recipe_of(hires) for hires in (False, True)]


def test_an_old_list_and_old_infotext_switch_a_pass_off(host: a1111.Host, hires: a1111.Job) -> None:
    old = args_of(threshold=1.0, speedup=1.8)[:38]
    host.process_images(host.script(), hires, *old[:4], "first pass only", *old[5:])
    assert hires.extra_generation_params["Skipstone hires pass"] == "off"
    page = Page(host)
    page.paste({"Skipstone threshold": "1", "Skipstone speedup": "2", "Skipstone passes": "hires pass only"})
    assert (page["first_pass"], page["hires_pass"], page["passes"]) == ("off", "as preset", "both passes")


def test_the_hires_pass_may_have_its_own_strength_beside_methods_of_the_first(
    host: a1111.Host, hires: a1111.Job
) -> None:
    panel = PanelSettings(enabled=True, threshold=0.0, hires_pass="own", hires_speedup=2.0, max_error=0.5)
    assert panel.recipe_of(hires=True).methods == (Auto(speedup=2.0),)
    host.process_images(host.script(), hires, *vars(panel.but(max_error=0.0)).values())
    told = hires.extra_generation_params
    assert told[CALLS_RUN] == "50%" and "Skipstone merged" in told and "/" not in told["Skipstone merged"]


@pytest.mark.parametrize("enable_hr", [False, True])
def test_a_picture_none_of_whose_passes_is_on_says_so(host: a1111.Host, hires: a1111.Job, enable_hr: bool) -> None:
    off = fresh(hires, enable_hr=enable_hr)
    asked = {"enabled": True, "level": "Fast", "first_pass": "off", "hires_pass": "off" if enable_hr else "own"}
    assert torch.equal(host.process_images(host.script(), off, asked), dense(host, off))
    assert off.extra_generation_params[REFUSED].startswith("did nothing: the first pass is off")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"first_pass": "own"}, "first_pass='own' is not one of off, as preset"),
        ({"hires_pass": "on"}, "hires_pass='on' is not one of"),
        ({"hires_level": "Custom"}, "hires_level='Custom' is not one of"),
        ({"hires_speedup": 0.5}, "hires_speedup=0.5 is outside [1, 20]"),
    ],
    ids=str,
)
def test_a_pass_that_cannot_be_set_so_is_refused(
    host: a1111.Host, job: a1111.Job, asked: dict[str, Any], says: str
) -> None:
    assert torch.equal(host.process_images(host.script(), job, {"enabled": True, **asked}), dense(host, job))
    assert says in job.extra_generation_params[REFUSED]


def test_the_page_shows_the_hires_passs_own_strength_when_it_has_one(on: Page) -> None:
    for name in ("hires_level", "hires_speedup"):
        assert on.made[name].visible is False
    on.set("hires_pass", "own")
    assert on.made["hires_level"].visible and on.made["hires_speedup"].visible
    on.set("hires_level", "Fast")
    assert on["hires_speedup"] == LEVELS["fast"]
    on.set("hires_speedup", 1.2)
    assert (on["hires_level"], on["level"], on["speedup"]) == ("Gentle", "Balanced", 1.8)


def test_the_line_has_both_passes(on: Page) -> None:
    on.set(on.script.hires, True, "change")
    on.set("hires_pass", "own")
    on.set("hires_speedup", 2.0)
    on.set(on.script.hires_steps, 10, "change")
    first, second = on.told.removeprefix("First pass: ").split(" Hires pass: ")
    assert "at 11 of 20 steps" in first and "at 5 of 10 steps" in second and "At most 2.0x faster." in second
    on.set("first_pass", "off")
    assert on.told.startswith("First pass: unaccelerated. Hires pass: The model runs at 5 of 10")
    on.set(on.script.hires, False, "change")
    assert "the first pass is off, and no hires pass is on" in on.told


def test_image_to_image_counts_the_steps_that_its_denoising_leaves(host: a1111.Host) -> None:
    page = Page(host, img2img=True)
    page.set("enabled", True)
    assert "of 15 steps" in page.told
    page.set(page.script.denoising, 0.5, "change")
    assert "of 11 steps" in page.told
    host.opts.img2img_fix_steps = True
    page.set(page.script.denoising, 0.4, "change")
    assert "of 20 steps" in page.told
    assert host.made["script_img2img_skipstone_passes_part"].visible is False


def test_what_cannot_work_in_this_host_has_no_control_and_keeps_its_place(page: Page) -> None:
    hidden = [name for name, component in page.made.items() if component.__dict__.get("visible") is False]
    assert sorted(hidden) == ["hires_level", "hires_speedup", "passes", "proportional"]
    shown = " ".join(str(component.__dict__.get("info")) for component in page.panel.components)
    assert "Not available" not in shown


def test_axes_set_the_passes() -> None:
    def cell(**values: Any) -> PanelSettings:
        job = type("Job", (), {f"skipstone_{name}": value for name, value in values.items()})()
        return with_axes(PanelSettings(level="Balanced", speedup=1.8), job)

    assert infotext_of(cell(hires_level="Fast"))["Skipstone hires speedup"] == "2.5"
    assert (cell(hires_speedup=3.0).hires_pass, cell(hires_speedup=3.0).recipe_of(True).auto) == (
        "own",
        Auto(speedup=3.0),
    )
    both = cell(first_pass="off", threshold=0.5)
    assert both.first_pass == "off" and both.as_recipe().merge is not None
