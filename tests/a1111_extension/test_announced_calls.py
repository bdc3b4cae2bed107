"""The calls of a pass are announced where its sampler evaluates each noise level of its schedule once."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from doubles import a1111
from doubles.a1111_jobs import args_of, dense, fresh, job_of, runs

from skipstone.a1111_extension.infotext import BLOCKS_RUN, CALLS_RUN, REFUSED
from skipstone.a1111_extension.schedule import Schedule
from skipstone.core.forecast.profile import Profile

pytest_plugins = ["doubles.a1111_fixtures"]

TIMES = tuple(999.0 - 90.5 * k for k in range(12))
SIGMAS = torch.tensor([14.6, 3.1, 0.8, 0.0])
RISING = {"timesteps": torch.tensor([1, 251, 501, 751])}
AUTO = {"threshold": 1.0, "speedup": 2.0}
RECORD = {**AUTO, "profile": "own.safetensors", "record": True}


@pytest.fixture
def job(models: tuple[tiny.Case, tiny.Case]) -> Iterator[a1111.Job]:
    """A picture of twelve steps; nothing of it may be left on the U-Net."""
    yield job_of(models[0], timesteps=TIMES)
    assert list(a1111.traces(models[0].model)) == []


def announced(name: str, arguments: dict[str, Any], **model: Any) -> list[float] | None:
    """What is announced once the sampler's function is called. Here the timestep of a level is ten times it."""
    denoiser = SimpleNamespace(sigmas=SIGMAS, sigma_to_t=lambda s: 10 * s, inner_model=SimpleNamespace(**model))
    sampler = SimpleNamespace(
        config=SimpleNamespace(name=name), func=lambda **k: None, model_wrap_cfg=SimpleNamespace(inner_model=denoiser)
    )
    schedule = Schedule(sampler)
    assert schedule.timesteps() is None, "nothing is known before"
    sampler.func(**arguments)
    return schedule.timesteps()


@pytest.mark.parametrize(
    ("name", "arguments", "calls"),
    [
        ("Euler", {"sigmas": SIGMAS}, [146.0, 31.0, 8.0]),
        ("Euler a", {"sigmas": SIGMAS, "eta": 1.0}, [146.0, 31.0, 8.0]),
        ("DPM++ 2M SDE", {"sigmas": SIGMAS}, [146.0, 31.0, 8.0]),
        ("Euler", {"sigmas": SIGMAS, "s_churn": 0.5}, None),
        ("Heun", {"sigmas": SIGMAS}, None),
        ("DPM adaptive", {"sigma_min": 0.03, "sigma_max": 14.6}, None),
        ("Restart", {"sigmas": SIGMAS}, None),
        ("of an extension", {"sigmas": SIGMAS}, None),
        ("DDIM", RISING, [751.0, 501.0, 251.0]),
        ("DDIM CFG++", RISING, [751.0, 501.0, 251.0]),
        ("PLMS", RISING, [751.0, 501.0, 501.0, 251.0]),
        ("UniPC", RISING, [999.0, 749.25, 499.5, 249.75]),
        ("UniPC", {**RISING, "is_img2img": True}, [751.0, 563.25, 375.5, 187.75]),
    ],
    ids=str,
)
def test_a_schedule_gives_the_networks_timesteps(name: str, arguments: dict[str, Any], calls: list[float]) -> None:
    found = announced(name, arguments)
    assert found == (calls if calls is None else pytest.approx(calls))


def test_sd3_takes_a_thousand_times_sigma() -> None:
    found = announced("Euler", {"sigmas": torch.tensor([1.0, 0.5, 0.0])}, is_sd3=True)
    assert found == [1000.0, 500.0]


def test_other_spacings_of_unipc_are_not_announced(host: a1111.Host) -> None:
    host.opts.uni_pc_skip_type = "logSNR"
    assert announced("UniPC", RISING) is None


@pytest.mark.parametrize(
    ("sampler", "announces"), [("Euler", True), ("Euler a", True), ("DDIM", True), ("Heun", False)]
)
def test_the_run_is_a_planned_one(host: a1111.Host, job: a1111.Job, sampler: str, announces: bool) -> None:
    job = fresh(job, sampler_name=sampler)
    host.process_images(host.script(), job, *args_of(threshold=1.0, rule="interval", every=3))
    report = runs(host)[0].report
    assert report.planned is announces and (report.blocks_dead > 0) is announces
    assert job.extra_generation_params[BLOCKS_RUN] and REFUSED not in job.extra_generation_params


def test_an_announcement_that_does_not_hold_is_dropped(host: a1111.Host, job: a1111.Job) -> None:
    """A sampler under a known name that evaluates elsewhere after all."""
    job = fresh(job)
    script, begin = host.script(), a1111.Sampler.sample

    def sample(sampler: a1111.Sampler, model: Any, x: torch.Tensor, timesteps: Any) -> torch.Tensor:
        sampler.model_wrap_cfg.inner_model.sigma_to_t = lambda level: 0.9 * level
        return begin(sampler, model, x, timesteps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(a1111.Sampler, "sample", sample)
        host.process_images(script, job, *args_of(**AUTO))
    report = runs(host)[0].report
    assert (report.planned, report.calls, report.calls_run) == (False, 12, 7)


def test_a_run_records_a_profile_and_the_next_one_uses_it(host: a1111.Host, job: a1111.Job, tmp_path: Any) -> None:
    for sampler in ("Euler", "DDIM"):
        own = {**RECORD, "profile": f"{sampler}.safetensors"}
        first, second = fresh(job, sampler_name=sampler), fresh(job, sampler_name=sampler)
        on = host.process_images(host.script(), first, *args_of(**own))
        assert torch.equal(on, dense(host, first)), "all calls run in it"
        assert any("recorded a profile of 12 steps" in text for text in first.comments)
        assert REFUSED not in first.extra_generation_params and CALLS_RUN not in first.extra_generation_params
        profile = Profile.load(tmp_path / "skipstone_profiles" / f"{sampler}.safetensors")
        assert profile.timesteps == TIMES
        host.process_images(host.script(), second, *args_of(**own))
        report = runs(host)[0].report
        assert report.calls_run < 12 and "6 of 12 steps were not measured" in "".join(report.notes)
        assert second.extra_generation_params[CALLS_RUN] == "50%"


@pytest.mark.parametrize("name", ["", "own", "../own.safetensors", "/tmp/own.safetensors", "sub/own.safetensors"])
def test_a_new_profile_has_a_plain_file_name(host: a1111.Host, job: a1111.Job, name: str, tmp_path: Any) -> None:
    on = host.process_images(host.script(), job, *args_of(**{**RECORD, "profile": name}))
    assert torch.equal(on, dense(host, job)) and not list(tmp_path.rglob("*.safetensors"))
    assert "record writes a new profile: give it a file name" in job.extra_generation_params[REFUSED]


def test_a_sampler_whose_calls_are_not_known_records_none(host: a1111.Host, job: a1111.Job, tmp_path: Any) -> None:
    job = fresh(job, sampler_name="Heun")
    host.process_images(host.script(), job, *args_of(**RECORD))
    assert "no profile can be recorded" in job.extra_generation_params[REFUSED]
    assert not list(tmp_path.rglob("*.safetensors"))
