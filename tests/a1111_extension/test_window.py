"""Start and End: one pair for all methods of the panel, presets and call skipping among them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
from doubles import a1111
from doubles.a1111_jobs import job_of, runs
from doubles.a1111_page import Page

from skipstone.a1111_extension.infotext import infotext_of
from skipstone.a1111_extension.loaded import Loaded
from skipstone.a1111_extension.outlook import outlook
from skipstone.a1111_extension.planned import Planned
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.a1111_extension.xyz import with_axes
from skipstone.core.recipe.auto import Auto
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.token_merge import TokenMerge

pytest_plugins = ["doubles.a1111_fixtures"]

TIMES = tuple(999.0 - 90.5 * k for k in range(12))
"""Of a picture of twelve steps, at k/11 of the run."""
WINDOW = {"start": 0.3, "end": 0.8}
INSIDE = {4, 5, 6, 7, 8}
"""The steps in it."""


@pytest.fixture
def job(models: tuple[tiny.Case, tiny.Case]) -> Iterator[a1111.Job]:
    """A picture of twelve steps; nothing may be left on the U-Net."""
    yield job_of(models[0], timesteps=TIMES)
    assert list(a1111.traces(models[0].model)) == []


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"level": "Balanced"}, {0, 2, 4, 6, 8, 10, 11}),
        ({"threshold": 1.0, "calls_speedup": 2.0}, {0, 3, 5, 8, 10, 11}),
        ({"threshold": 1.0, "calls_every": 4}, {0, 4, 8, 11}),
    ],
    ids=str,
)
def test_outside_of_start_and_end_every_call_runs(
    host: a1111.Host, job: a1111.Job, settings: dict[str, Any], keys: set[int]
) -> None:
    asked = {"enabled": True, **settings, **WINDOW}
    host.process_images(host.script(), job, asked)
    report = runs(host)[0].report
    assert set(report.chosen["keys"]) == keys | set(range(12)) - INSIDE
    assert report.calls_forecast == len(INSIDE - keys)
    told = job.extra_generation_params
    assert (told["Skipstone start"], told["Skipstone end"]) == ("0.3", "0.8")
    page = Page(host)
    page.paste(told)
    assert PanelSettings.of_args([c.value for c in page.panel.components]) == PanelSettings.of_args([asked])


def test_a_hires_pass_of_its_own_has_the_same_part_of_its_run() -> None:
    panel = PanelSettings(level="Fast", speedup=2.5, hires_pass="own", hires_speedup=3.0, **WINDOW)
    assert panel.recipe_of(hires=False).methods == (Auto(speedup=2.5, **WINDOW),)
    assert panel.recipe_of(hires=True).methods == (Auto(speedup=3.0, **WINDOW),)


def test_one_pair_is_for_all_methods_in_use_and_its_axes_too() -> None:
    panel = PanelSettings(enabled=True, calls_speedup=2.0, **WINDOW)
    assert panel.as_recipe().methods == (TokenMerge(**WINDOW), CallSkip(speedup=2.0, **WINDOW))
    assert infotext_of(panel)["Skipstone start"] == "0.3"
    job = type("Job", (), {"skipstone_start": 0.5})()
    cell = with_axes(PanelSettings(enabled=True, level="Fast", speedup=2.5), job)
    assert cell.as_recipe().auto == Auto(speedup=2.5, start=0.5)


def test_methods_with_parts_of_their_own_are_kept_as_a_recipe() -> None:
    recipe = PanelSettings(calls_speedup=2.0, start=0.3).as_recipe()
    assert not PanelSettings.of_recipe(recipe).recipe
    apart = type(recipe).of([TokenMerge(start=0.3), CallSkip(speedup=2.0)])
    assert PanelSettings.of_recipe(apart).as_recipe() == apart and PanelSettings.of_recipe(apart).recipe


def test_the_live_line_counts_the_steps_in_it(on: Page) -> None:
    on.set("start", 0.3)
    assert "at 14 of 20 steps" in on.told and "At most 1.4x faster" in on.told
    on.set("end", 0.3)
    assert "it ends where it starts. Set End above Start." in on.told
    assert "window" in on.shown


def test_a_pass_that_begins_in_the_middle_of_the_noise_has_the_part_that_it_reaches() -> None:
    """Half of the noise: no step lies in the first half of a run."""
    planned = Planned.of({"steps": 40, "denoising_strength": 0.5}, img2img=True)
    for window, ran in ({"end": 0.5}, 21), ({"start": 0.5}, 12), ({}, 12):
        told = outlook(PanelSettings(level="Balanced", speedup=1.8, **window), planned, Loaded())
        assert f"at {ran} of 21 steps" in told
