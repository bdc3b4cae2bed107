"""diffusers pipelines with real schedulers: every evaluation is one planned call, and each run's state is its own."""

from __future__ import annotations

import pytest
import tiny
import torch

from skipstone.core.engine.merge import PairsFound
from skipstone.core.recipe.checkpoint_lists import CHECKPOINT_PRESETS
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

MERGE = TokenMerge(threshold=0.8, bucket=1, checkpoints="config_1")
STEPS = 6
CALLS = {
    "DDIMScheduler": 6,
    "EulerDiscreteScheduler": 6,
    "EulerAncestralDiscreteScheduler": 6,
    "DPMSolverMultistepScheduler": 6,
    "DPMSolverSinglestepScheduler": 6,
    "UniPCMultistepScheduler": 6,
    "DEISMultistepScheduler": 6,
    "LCMScheduler": 6,
    "PNDMScheduler": 7,
    "HeunDiscreteScheduler": 11,
    "KDPM2DiscreteScheduler": 11,
    "KDPM2AncestralDiscreteScheduler": 11,
}
"""Scheduler -> evaluations in six steps."""


def evaluations(network: torch.nn.Module) -> list[float]:
    """Timesteps of the network's forwards from here on."""
    seen: list[float] = []
    network.register_forward_pre_hook(lambda m, args, kwargs: seen.append(float(args[1])), with_kwargs=True)
    return seen


@pytest.mark.parametrize("scheduler", CALLS)
def test_every_evaluation_is_one_planned_call(scheduler: str) -> None:
    pipe = tiny.sd_pipeline(scheduler)
    seen = evaluations(pipe.unet)
    with accelerate(pipe, MERGE) as handle:
        picture, report = tiny.run_sd(pipe, STEPS), handle.report()
        assert report.calls == len(seen) == CALLS[scheduler]
        assert report.planned
        assert report.served == 3
        assert report.merged_share > 0.1
        assert handle.engine.running is None
        assert picture.isfinite().all()


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler", "KDPM2DiscreteScheduler"])
def test_a_second_run_is_as_the_first(scheduler: str) -> None:
    pipe = tiny.sd_pipeline(scheduler)
    with accelerate(pipe, MERGE) as handle:
        first = tiny.run_sd(pipe, STEPS)
        assert torch.equal(tiny.run_sd(pipe, STEPS), first)
        assert handle.report().calls == CALLS[scheduler]


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "PNDMScheduler"])
def test_a_handle_that_is_removed_leaves_the_pipeline_as_it_was(scheduler: str) -> None:
    pipe = tiny.sd_pipeline(scheduler)
    dense, before = tiny.run_sd(pipe, STEPS), tiny.snapshot(pipe.unet)
    with accelerate(pipe, MERGE):
        assert not torch.equal(tiny.run_sd(pipe, STEPS), dense)
    assert tiny.snapshot(pipe.unet) == before
    assert torch.equal(tiny.run_sd(pipe, STEPS), dense)


def test_fifty_plms_steps_are_the_papers_51_calls_with_a_repeated_timestep() -> None:
    pipe = tiny.sd_pipeline("PNDMScheduler")
    seen, found = evaluations(pipe.unet), []
    with accelerate(pipe, TokenMerge(threshold=0.8, bucket=1, checkpoints="config_3"), observer=found.append) as handle:
        tiny.run_sd(pipe, 50)
        report = handle.report()
    assert report.calls == len(seen) == 51
    assert seen[:4] == [981, 961, 961, 941]
    assert len(set(seen)) == 50
    assert report.planned
    assert sorted({f.call for f in found}) == list(CHECKPOINT_PRESETS["config_3"])


@pytest.mark.parametrize(
    ("scheduler", "strength"),
    [
        ("DDIMScheduler", 0.4),
        ("EulerDiscreteScheduler", 0.4),
        ("DPMSolverSinglestepScheduler", 0.4),
        ("UniPCMultistepScheduler", 0.4),
        ("PNDMScheduler", 0.4),
        ("KDPM2AncestralDiscreteScheduler", 0.4),
        ("DDIMScheduler", 0.7),
        ("HeunDiscreteScheduler", 0.7),
    ],
)
def test_image_to_image_stays_planned(scheduler: str, strength: float) -> None:
    pipe = tiny.sd_pipeline(scheduler, image_to_image=True)
    seen, image = evaluations(pipe.unet), tiny.smooth(1, 4, 16, 16)
    with accelerate(pipe, MERGE) as handle:
        tiny.run_sd(pipe, 10, image=image, strength=strength)
        report = handle.report()
    assert report.calls == len(seen) > 2
    assert report.planned
    assert report.served == 3


def test_image_to_image_searches_at_the_noise_of_the_full_run() -> None:
    pipe = tiny.sd_pipeline("DDIMScheduler", image_to_image=True)
    found: list[PairsFound] = []
    with accelerate(pipe, TokenMerge(threshold=0.8, bucket=1, checkpoints="config_3"), observer=found.append) as handle:
        tiny.run_sd(pipe, 50, image=tiny.smooth(1, 4, 16, 16), strength=0.5)
        assert handle.report().calls == 25
    calls = sorted({f.call for f in found})
    expected = {0, *(round(k * 49 / 50) - 25 for k in CHECKPOINT_PRESETS["config_3"] if k > 25)}
    assert all(min(abs(c - e) for e in expected) <= 1 for c in calls)
    assert len(calls) == len(expected)


def test_guidance_off_custom_timesteps_and_batches() -> None:
    pipe = tiny.sd_pipeline("DDIMScheduler")
    with accelerate(pipe, MERGE) as handle:
        tiny.run_sd(pipe, STEPS, guidance_scale=1.0)
        assert handle.report().calls == STEPS
        tiny.run_sd(pipe, STEPS, batch=3)
        assert handle.report().calls == STEPS
        tiny.run_sd(pipe, STEPS, height=96, width=192)
        assert handle.report().calls == STEPS
        assert {layer.tokens for layer in handle.report().layers.values()} == {2 * 12 * 24 * STEPS}
    pipe = tiny.sd_pipeline("DPMSolverMultistepScheduler")
    with accelerate(pipe, MERGE) as handle:
        tiny.run_sd(pipe, timesteps=[900, 500, 300, 20])
        assert handle.report().calls == 4
        assert handle.report().planned


def test_runs_of_other_sizes_in_between_change_nothing() -> None:
    pipe = tiny.sd_pipeline("UniPCMultistepScheduler")
    with accelerate(pipe, MERGE):
        first = tiny.run_sd(pipe, STEPS)
        other = tiny.run_sd(pipe, STEPS + 2, seed=3, batch=2, height=64, width=128)
        assert torch.equal(tiny.run_sd(pipe, STEPS), first)
        assert torch.equal(tiny.run_sd(pipe, STEPS + 2, seed=3, batch=2, height=64, width=128), other)


def test_the_scheduler_may_be_replaced_under_the_handle() -> None:
    pipe = tiny.sd_pipeline("DDIMScheduler")
    with accelerate(pipe, MERGE) as handle:
        tiny.run_sd(pipe, STEPS)
        pipe.scheduler = tiny.make_scheduler("HeunDiscreteScheduler")
        tiny.run_sd(pipe, STEPS)
        assert handle.report().calls == 11
        assert handle.report().planned


def test_neutral_leaves_pipeline_and_network_alone() -> None:
    pipe = tiny.sd_pipeline()
    dense = tiny.run_sd(pipe)
    before, attributes = tiny.snapshot(pipe.unet), set(pipe.__dict__)
    with accelerate(pipe, TokenMerge(threshold=1.0)):
        assert tiny.snapshot(pipe.unet) == before
        assert set(pipe.__dict__) == attributes
        assert torch.equal(tiny.run_sd(pipe), dense)


def test_the_pipelines_noise_is_untouched() -> None:
    """An ancestral sampler draws noise at each step from the generator that it was given, or from the global one."""
    pipe = tiny.sd_pipeline("EulerAncestralDiscreteScheduler")
    states = []
    for recipe in (TokenMerge(threshold=1.0), TokenMerge(threshold=0.5, bucket=1, destination="random")):
        torch.manual_seed(7)
        with accelerate(pipe, recipe):
            tiny.run_sd(pipe, generator=None)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_schedule_that_goes_back_up_is_one_run() -> None:
    """Restart sampling: the pipeline's schedule tells the run, not the timestep."""
    pipe = tiny.sd_pipeline()
    pipe.scheduler.timesteps = torch.tensor([900, 500, 700, 300])
    x, cond = tiny.noise(1, 4, 16, 16), tiny.noise(1, *tiny.CONTEXT)
    with torch.no_grad(), accelerate(pipe, MERGE) as handle:
        for t in pipe.scheduler.timesteps:
            pipe.unet(x, t, encoder_hidden_states=cond)
        assert handle.report().calls == 4
        assert handle.report().planned
