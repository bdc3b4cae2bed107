"""What the A1111 script cannot serve is told in one line, and the picture comes dense."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from doubles import a1111
from doubles.a1111_jobs import ON, args_of, dense, fresh, job_of, refused, runs

from skipstone.a1111_extension.infotext import MERGED, REFUSED
from skipstone.a1111_extension.table import BOTH, CUSTOM

pytest_plugins = ["doubles.a1111_fixtures"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((True, 1.5), "threshold=1.5 is outside [-1, 1]"),
        ((True, "much"), "threshold='much'"),
        ((True, 0.0, CUSTOM, "0, eight"), "checkpoints '0, eight' cannot be read"),
        ((True, 0.0, CUSTOM, ""), "checkpoints '' cannot be read"),
        ((True, 0.0, "config_9"), "checkpoints 'config_9' cannot be read"),
        ((True, 0.0, "every", "", "sometimes"), "passes='sometimes' is not one of"),
        ((True, 0.0, "every", "", BOTH, "nearest"), "matching='nearest' is not one of"),
        (args_of(recipe="{not json"), "recipe is not JSON"),
        (args_of(start=0.8, end=0.2), "start=0.8 is after end=0.2"),
        (args_of(max_downsample="3"), "max_downsample='3' is not one of"),
    ],
)
def test_bad_values_are_told_once_and_the_picture_is_dense(
    host: a1111.Host, job: a1111.Job, args: tuple[Any, ...], says: str
) -> None:
    x = host.process_images(host.script(), job, *args)
    assert torch.equal(x, dense(host, job))
    (text,) = refused(job)
    assert says in text and "\n" not in text and text.startswith("Skipstone did nothing: ")
    assert list(job.extra_generation_params) == [REFUSED] and runs(host) == []


@pytest.mark.parametrize("forge", [False, True], ids=["a1111", "forge"])
def test_the_hosts_own_token_merging_goes_first(host: a1111.Host, job: a1111.Job, forge: bool) -> None:
    job = fresh(job, token_merging=0.5, forge=forge)
    assert_declined(host, job, "own token merging")


def test_hypertile_goes_first(host: a1111.Host, job: a1111.Job) -> None:
    host.opts.hypertile_enable_unet = True
    assert_declined(host, job, "Hypertile")


def test_hypertile_for_the_second_pass_declines_that_pass_only(host: a1111.Host, job: a1111.Job) -> None:
    host.opts.hypertile_enable_unet_secondpass = True
    job = fresh(job, enable_hr=True)
    host.process_images(host.script(), job, *ON)
    assert [run.title for run in runs(host)] == ["first pass, 128 x 128"]
    (text,) = refused(job)
    assert "Hypertile" in text


def test_an_sd_unet_goes_first(host: a1111.Host, job: a1111.Job) -> None:
    host.sd_unet.current_unet = object()
    assert_declined(host, job, "SD Unet")


def test_a_model_that_is_no_unet_is_declined(host: a1111.Host) -> None:
    class MMDiT(torch.nn.Module):
        """A network of no family that Skipstone knows."""

        def forward(self, x: torch.Tensor, timesteps: Any, context: Any) -> torch.Tensor:
            return 0.5 * x

    case = tiny.Case("mmdit", MMDiT(), lambda m, x, t, c: m(x, t, c))
    assert_declined(host, job_of(case), "MMDiT is not of a supported family")


def assert_declined(host: a1111.Host, job: a1111.Job, says: str) -> None:
    x = host.process_images(host.script(), job, *ON)
    assert torch.equal(x, dense(host, job))
    (text,) = refused(job)
    assert says in text and runs(host) == []


def test_no_layer_served_is_said_loudly(host: a1111.Host) -> None:
    job = job_of(tiny.ldm_unet(attention=(2,)))
    x = host.process_images(host.script(), job, *args_of(threshold=0.0, max_downsample="1"))
    assert torch.equal(x, dense(host, job))
    (text,) = refused(job)
    assert text.startswith("Skipstone did nothing: ") and "coarser than 1/1" in text
    told = job.extra_generation_params
    assert MERGED not in told and f"Skipstone {told[REFUSED]}" == text


def test_proportional_attention_is_declined_with_a_reason(host: a1111.Host, job: a1111.Job) -> None:
    x = host.process_images(host.script(), job, *args_of(threshold=0.0))
    y = host.process_images(host.script(), fresh(job), *args_of(threshold=0.0, proportional=True))
    assert torch.equal(x, y)
    assert any("proportional attention is off" in note for note in runs(host)[0].report.notes)


def test_a_latent_that_is_no_picture_runs_dense(host: a1111.Host, job: a1111.Job) -> None:
    script = host.script()
    script.process_before_every_sampling(job, *ON, x=job.latent)
    with pytest.raises(Exception):  # noqa: B017 - the U-Net's own error, not one of ours
        a1111.call_unet(job.unet, job.latent[0], 500.0, job.cond)
    expected = a1111.call_unet(job.unet, job.latent, 500.0, job.cond)
    script.postprocess(job, None, *ON)
    assert not torch.equal(expected, a1111.call_unet(job.unet, job.latent, 500.0, job.cond))
    assert "calls" in next(iter(runs(host)[0].report.declined.values()))
