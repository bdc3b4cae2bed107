"""Skipstone beside ControlNet's reference modes, which run the U-Net's blocks twice in one call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tiny
import torch
from doubles import a1111
from doubles.a1111_controlnet import ControlNet
from doubles.a1111_jobs import args_of, dense_now, fresh, runs

from skipstone.a1111_extension.bracket import same_picture
from skipstone.a1111_extension.infotext import BLOCKS_RUN, MERGED, REFUSED
from skipstone.core.models import recognise

pytest_plugins = ["doubles.a1111_fixtures"]

RULE = args_of(threshold=1.0, rule="interval", every=5)
STEPS = 5


@pytest.fixture
def control(job: a1111.Job) -> ControlNet:
    return ControlNet(job.unet, tiny.noise(*job.latent.shape, seed=3))


@contextmanager
def counted(unet: torch.nn.Module) -> Iterator[list[int]]:
    """How often a convolution inside the middle block really runs. A hook there would make the block run at every call."""
    inner, seen = unet.middle_block[0].in_layers[2], [0]
    forward = inner.forward

    def count(x: torch.Tensor) -> torch.Tensor:
        seen[0] += 1
        return forward(x)

    inner.forward = count
    try:
        yield seen
    finally:
        del inner.forward


def test_the_pictures_pass_is_served_and_the_references_runs_in_full(
    host: a1111.Host, job: a1111.Job, control: ControlNet
) -> None:
    with control.hooked():
        off = dense_now(host, job)
        with counted(job.unet) as seen:
            on = host.process_images(host.script(), job, *RULE)
    blocks = len(recognise(job.unet).graph(job.unet).blocks)
    report = runs(host)[0].report
    assert (report.blocks_run, report.blocks, report.calls) == (blocks, STEPS * blocks, STEPS)
    assert seen[0] == STEPS + 1, "five reference passes, and the first call's pass of the picture"
    assert not torch.equal(on, off)
    assert job.extra_generation_params[BLOCKS_RUN] == "20%" and REFUSED not in job.extra_generation_params
    assert any("extra passes" in note for note in report.notes)


def test_a_rule_that_runs_everything_beside_a_reference_is_exact(
    host: a1111.Host, job: a1111.Job, control: ControlNet
) -> None:
    with control.hooked():
        off = dense_now(host, job)
        on = host.process_images(host.script(), job, *args_of(threshold=1.0, rule="depths", depths="12 12 12 12"))
        assert torch.equal(on, off) and runs(host)[0].report.blocks_run > 0
        assert torch.equal(host.process_images(host.script(), fresh(job), False), off)


@pytest.mark.parametrize("until", [0, 2])
def test_a_reference_that_begins_or_ends_in_mid_run_never_takes_the_pictures_caches(
    host: a1111.Host, job: a1111.Job, control: ControlNet, until: int
) -> None:
    """Whichever pass comes first in a call, the same calls of the picture run in full, and the same repeat."""
    outputs: list[torch.Tensor] = []

    def switch(job: a1111.Job, step: int) -> None:
        control.active = (step < 2) == (until == 2)

    host.on_step = switch
    with control.hooked():
        handle = job.unet.register_forward_hook(lambda module, args, output: outputs.append(output))
        host.process_images(host.script(), job, *RULE)
        handle.remove()
    assert len(control.passes) == (2 if until == 2 else 3)
    assert all(torch.allclose(output, outputs[0], atol=1e-4) for output in outputs[1:]), (
        "a call did not repeat the first"
    )


def test_attention_that_reads_a_reference_merges_nothing_and_says_so(
    host: a1111.Host, job: a1111.Job, control: ControlNet
) -> None:
    with control.hooked():
        off = dense_now(host, job)
        on = host.process_images(host.script(), job, *args_of(threshold=0.0))
        blocks = host.process_images(host.script(), fresh(job), *RULE)
        both = fresh(job)
        assert torch.equal(
            host.process_images(host.script(), both, *args_of(threshold=0.0, rule="interval", every=5)), blocks
        )
    assert torch.equal(on, off)
    assert MERGED not in job.extra_generation_params and "beside the tokens" in job.extra_generation_params[REFUSED]
    told = both.extra_generation_params
    assert told[BLOCKS_RUN] == "20%" and MERGED not in told and told[REFUSED].startswith("merged no tokens")


def test_reference_without_banks_merges_the_picture_alone(host: a1111.Host, job: a1111.Job) -> None:
    control = ControlNet(job.unet, tiny.noise(*job.latent.shape, seed=3), banks=False)
    alone = host.process_images(host.script(), fresh(job), *args_of(threshold=0.0))
    share = runs(host)[0].report.merged_share
    with control.hooked():
        on = host.process_images(host.script(), job, *args_of(threshold=0.0))
    assert torch.allclose(on, alone, atol=1e-5)
    assert runs(host)[0].report.merged_share == pytest.approx(share)


def test_a_forward_that_shows_the_blocks_another_latent_is_declined(host: a1111.Host, job: a1111.Job) -> None:
    unet, original = job.unet, job.unet.forward
    unet.forward = lambda *args, **kwargs: original(1.5 * args[0], **kwargs)  # type: ignore[method-assign]
    try:
        off = dense_now(host, job)
        assert torch.equal(host.process_images(host.script(), job, *RULE), off)
    finally:
        del unet.forward
    assert "no pass through the blocks starts from the picture's latent" in job.extra_generation_params[REFUSED]
    assert BLOCKS_RUN not in job.extra_generation_params


def test_a_pass_is_known_by_its_latent_whatever_its_type_and_further_channels() -> None:
    latent = tiny.noise(2, 9, 4, 4)
    masked = torch.cat([latent[:, :4], torch.zeros(2, 5, 4, 4)], dim=1)
    assert same_picture(latent, latent) and same_picture(latent.clone(), latent)
    assert same_picture(latent.half(), latent) and same_picture(masked, latent)
    assert (
        not same_picture(latent + 1, latent) and not same_picture(latent[:1], latent) and not same_picture(None, latent)
    )
