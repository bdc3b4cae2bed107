"""Arguments as API clients, pages and pasted infotext send them: read in the type of their field, or refused in one line."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import dense, fresh, refused, runs

import skipstone
from skipstone.a1111_extension.infotext import REFUSED, infotext_of, read_infotext
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.core.errors import SkipstoneError
from skipstone.core.recipe.block_skip import BlockSkip

pytest_plugins = ["doubles.a1111_fixtures"]

RULE = {"enabled": True, "threshold": 1, "rule": "interval"}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"every": 2.0}, {"every": 2}),
        ({"every": "2"}, {"every": 2}),
        ({"threshold": 1}, {"threshold": 1.0}),
        ({"threshold": "0.5"}, {"threshold": 0.5}),
        ({"enabled": "false"}, {"enabled": False}),
        ({"enabled": "True"}, {"enabled": True}),
        ({"offload": 1}, {"offload": True}),
        ({"max_downsample": 2}, {"max_downsample": "2"}),
        ({"depths": 0}, {"depths": "0"}),
        ({"every": None}, {"every": PanelSettings.every}),
    ],
    ids=str,
)
def test_a_value_is_read_in_the_type_of_its_field(given: dict[str, Any], read: dict[str, Any]) -> None:
    assert PanelSettings.of_args([given]) == PanelSettings(**read)
    ((name, value),) = given.items()
    place = list(PanelSettings.__dataclass_fields__).index(name)
    assert PanelSettings.of_args([*[None] * place, value]) == PanelSettings(**read)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([["false"]], "enabled=['false'] must be true or false"),
        (["on"], "enabled='on' must be true or false"),
        ([2], "enabled=2 must be true or false"),
        ([{"enable": True}], "'enable' is no argument of Skipstone"),
        ([{"every": 2.5}], "every=2.5 must be a whole number"),
        ([{"every": "abc"}], "every='abc' must be a number"),
        ([{"every": True}], "every=True must be a number"),
        ([{"every": 10**400}], "every=<whole number of"),
        ([{"every": 1e300}], "must be a whole number"),
        ([{"every": float("nan")}], "every=nan must be a whole number"),
        ([{"threshold": [0.7]}], "threshold=[0.7] must be a number"),
        ([{"recipe": {"skipstone": 1}}], "recipe={'skipstone': 1} must be text"),
        ([{"mask": ["a" * 9999] * 99}], "must be text"),
        ([{"\ud800" * 5000: 1}], "is no argument of Skipstone"),
    ],
    ids=lambda value: str(value)[:30].encode("ascii", "replace").decode(),
)
def test_what_cannot_be_read_is_refused_in_one_short_line(args: list[Any], says: str) -> None:
    with pytest.raises(SkipstoneError) as refusal:
        PanelSettings.of_args(args)
    text = str(refusal.value)
    assert says in text and "\n" not in text and len(text) < 200
    text.encode()


@pytest.mark.parametrize("args", [["false"], [False], [{"enabled": False}], [{}], [0], []], ids=str)
def test_off_is_off_however_it_is_said(host: a1111.Host, job: a1111.Job, args: list[Any]) -> None:
    assert torch.equal(host.process_images(host.script(), job, *args), dense(host, job))
    assert job.comments == {} and job.extra_generation_params == {}


def test_arguments_by_name_are_those_by_place(host: a1111.Host, job: a1111.Job) -> None:
    by_name = host.process_images(host.script(), job, {**RULE, "every": 2.0})
    told = job.extra_generation_params
    assert told["Skipstone every"] == "2" and runs(host)[0].report.blocks_reused > 0
    settings = PanelSettings(**{**RULE, "every": 2})
    by_place = host.process_images(host.script(), fresh(job), *vars(settings).values())
    assert torch.equal(by_name, by_place)


@pytest.mark.parametrize("args", [[["false"]], [{**RULE, "every": 2.5}], [{**RULE, "depths": [1]}]], ids=str)
def test_a_picture_with_unreadable_arguments_is_unaccelerated_and_says_so(
    host: a1111.Host, job: a1111.Job, args: list[Any]
) -> None:
    assert torch.equal(host.process_images(host.script(), job, *args), dense(host, job))
    (text,) = refused(job)
    assert text.startswith("Skipstone did nothing: ") and len(text) <= 300
    assert job.extra_generation_params == {REFUSED: text.removeprefix("Skipstone ")}


@pytest.mark.parametrize(
    "changed",
    [{"every": "abc"}, {"every": "2.5"}, {"every": "9" * 5000}, {"start": "soon"}, {"rule": "x"}, {"branch": "-1"}],
    ids=str,
)
def test_infotext_that_cannot_run_switches_the_panel_off_with_one_line(
    host: a1111.Host, caplog: pytest.LogCaptureFixture, changed: dict[str, str]
) -> None:
    params: dict[str, str] = infotext_of(PanelSettings(**{**RULE, "rule": "deepcache"}))
    params |= {f"Skipstone {name}": text for name, text in changed.items()}
    with caplog.at_level(logging.WARNING):
        pasted = [read(params) for _, read in host.script().infotext_fields]
    assert pasted == [False] + [None] * (len(pasted) - 1)
    (line,) = caplog.messages
    assert (
        line.startswith("Skipstone did not paste this infotext: ") and next(iter(changed)) in line and len(line) < 300
    )


def test_whole_numbers_are_pasted_whatever_their_form() -> None:
    params = infotext_of(PanelSettings(**RULE)) | {"Skipstone every": "2.0"}
    pasted = PanelSettings(**{name: read_infotext(name)(params) for name in PanelSettings.__dataclass_fields__})
    assert pasted.as_recipe().skip == BlockSkip(rule="interval", every=2)


def test_a_number_in_infotext_is_the_number_that_ran() -> None:
    for budget in (1048575.0, 0.125, 8192):
        panel = PanelSettings(enabled=True, rule="interval", memory_budget=budget)
        assert float(infotext_of(panel)["Skipstone memory budget"]) == budget


GUIDE = (Path(skipstone.__file__).parent / "docs" / "user_guide.md").read_text(encoding="utf-8")


def test_the_request_in_the_user_guide_skips_calls(host: a1111.Host, job: a1111.Job) -> None:
    (body,) = re.findall(r"curl [^']* -d '(.*?)'", GUIDE, re.DOTALL)
    args = json.loads(body)["alwayson_scripts"]["skipstone"]["args"]
    host.process_images(host.script(), long := fresh(job, timesteps=tuple(999.0 - 50 * k for k in range(20))), *args)
    assert long.extra_generation_params == {
        "Skipstone level": "Balanced", "Skipstone speedup": "1.8", "Skipstone calls run": "55%",
    }  # fmt: skip


def test_the_user_guide_lists_the_names_in_order() -> None:
    guide = " ".join(GUIDE.split())
    assert ", ".join(f"`{name}`" for name in PanelSettings.__dataclass_fields__) in guide
