"""Settings > Skipstone: presets per kind of model, the console line, results in the infotext, runs kept, the most cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import ON, args_of, dense, fresh, runs
from doubles.a1111_page import Page

from skipstone.a1111_extension.infotext import BLOCKS_RUN, MERGED, REFUSED

pytest_plugins = ["doubles.a1111_fixtures"]


def test_the_settings_page_has_its_section(host: a1111.Host) -> None:
    host.fire("on_ui_settings")
    assert list(host.options) == [
        *(f"skipstone_preset_{kind}" for kind in ("sd", "sdxl", "sd3", "other")),
        *(f"skipstone_{name}" for name in ("console", "results", "runs", "cache")),
    ]
    assert {option.section for option in host.options.values()} == {("skipstone", "Skipstone")}
    assert [option.default for option in host.options.values()] == [*["Balanced"] * 4, True, True, 20, 0]


@pytest.mark.parametrize(
    ("model", "chosen", "level"),
    [
        ({"is_sdxl": True}, {"skipstone_preset_sdxl": "Gentle"}, ("Gentle", 1.3)),
        ({"is_sdxl": True}, {"skipstone_preset_sd": "Gentle"}, ("Balanced", 1.8)),
        ({"is_sd2": True}, {"skipstone_preset_sd": "Custom"}, ("Custom", 1.0)),
        ({"is_sd3": True}, {"skipstone_preset_sd3": "Fast"}, ("Fast", 2.5)),
        ({}, {"skipstone_preset_other": "Fast"}, ("Fast", 2.5)),
        ({}, {"skipstone_preset_other": "gone"}, ("Balanced", 1.8)),
        (None, {"skipstone_preset_other": "Fast"}, ("Balanced", 1.8)),
    ],
    ids=str,
)
def test_a_panel_opens_on_the_preset_of_the_loaded_model(
    page: Page, model: dict[str, bool] | None, chosen: dict[str, str], level: tuple[str, float]
) -> None:
    page.host.models.model_data.sd_model = None if model is None else SimpleNamespace(**model)
    vars(page.host.opts).update(chosen)
    page.set("enabled", True)
    assert (page["level"], page["speedup"]) == level


def test_each_picture_has_one_console_line(
    host: a1111.Host, job: a1111.Job, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*args: Any, **changes: Any) -> list[str]:
        host.process_images(host.script(), fresh(job, **changes), *args)
        return capsys.readouterr().out.splitlines()

    (line,) = said(*ON)
    assert line.startswith("Skipstone: merged ") and line.endswith("x less work.")
    (line,) = said(*ON, enable_hr=True)
    assert line.startswith("Skipstone: first pass: merged ") and "; hires pass: merged " in line
    (line,) = said({"enabled": True, "level": "Fast"})
    assert line.startswith("Skipstone did nothing: 5 steps are too few")
    (line,) = said({"enabled": True, "thresold": 1})
    assert line.startswith("Skipstone did nothing: 'thresold' is no argument of Skipstone")
    assert said(*args_of(threshold=1.0)) == ["Skipstone: nothing was accelerated."]
    assert said(False) == []
    host.opts.skipstone_console = False
    assert said(*ON) == []


def test_the_infotext_without_results_keeps_settings_and_refusals(host: a1111.Host, job: a1111.Job) -> None:
    host.opts.skipstone_results = False
    host.process_images(host.script(), job, *ON)
    assert MERGED not in job.extra_generation_params and job.extra_generation_params["Skipstone threshold"] == "0"
    host.opts.hypertile_enable_unet = True
    other = fresh(job)
    host.process_images(host.script(), other, *ON)
    assert "Hypertile" in other.extra_generation_params[REFUSED]


@pytest.mark.parametrize(("kept", "left"), [(2, 2), (0, 3), (None, 3)])
def test_the_tab_keeps_the_runs_that_the_setting_says(host: a1111.Host, job: a1111.Job, kept: Any, left: int) -> None:
    host.opts.skipstone_runs = kept
    for _ in range(3):
        host.process_images(host.script(), fresh(job), *ON)
    assert len(runs(host)) == left


def test_the_cache_is_limited_whatever_the_panel_says(host: a1111.Host, job: a1111.Job) -> None:
    def held(most: float, budget: float) -> tuple[float, torch.Tensor]:
        host.opts.skipstone_cache = most
        one = fresh(job)
        x = host.process_images(
            host.script(), one, *args_of(threshold=1.0, rule="interval", every=5, memory_budget=budget)
        )
        return runs(host)[0].report.cache_bytes / 2**20, x

    whole, free = held(0, 0)
    tight = whole / 2
    (limited, changed), (same, _) = held(tight, 0), held(0, tight)
    assert limited == same <= tight < whole and not torch.equal(changed, free)
    assert held(tight, tight / 2)[0] <= tight / 2
    assert held(2 * whole, 0)[0] == whole and not torch.equal(free, dense(host, job))
    assert BLOCKS_RUN not in job.extra_generation_params
