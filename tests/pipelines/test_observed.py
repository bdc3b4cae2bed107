"""A pipeline of any kind is taken apart by watching two steps of it, and then draws what it draws itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import served
import torch
from torch import Tensor

from pipelines import PIPELINES, Running
from skipstone.core.calibrate.masks.settings import TrainSettings
from skipstone.core.calibrate.masks.trainer import train
from skipstone.core.errors import ModelError, RecipeError
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.denoiser import PipelineDenoiser, denoiser_of
from skipstone.pipelines.observed import ObservedConditions
from skipstone.pipelines.row_arguments import Rows

STEPS, SAMPLES = 4, 5
WITHOUT_GUIDANCE = ("qwen_image", "lumina2")
"""They combine cond and uncond in ways of their own."""
TAKEN_APART = (
    "text_to_image", "sdxl", "pixart_alpha", "pixart_sigma", "sd3", "flux", "chroma", "qwen_image", "z_image", "lumina2",
    "wan", "ltx", "hunyuan_video",
)  # fmt: skip
REFUSED = {
    "image_to_image": "does not begin with noise",
    "inpainting": "the latents change between two steps",
    "controlnet": "change from step to step",
    "perturbed_attention": "in a way of its own",
    "qwen_image": "in a way of its own: give guidance 1",
}


def built(name: str) -> Running:
    """The pipeline, with guidance if it can be taken apart with it."""
    running = PIPELINES[name]()
    if name in WITHOUT_GUIDANCE:
        running.arguments = {k: v for k, v in running.arguments.items() if not k.startswith("negative")}
        running.arguments["true_cfg_scale" if name == "qwen_image" else "guidance_scale"] = 1.0
    return running


def taken_apart(running: Running) -> PipelineDenoiser:
    """The denoiser of the pipeline, watched with its own arguments for five samples."""

    def rows(value: Any) -> Any:
        if isinstance(value, Tensor) and len(value) == 1:
            return value.expand(SAMPLES, *value.shape[1:]).clone()
        return value * SAMPLES if isinstance(value, list) else value

    return denoiser_of(running.pipe, STEPS, **{name: rows(value) for name, value in running.arguments.items()})


def drawn(running: Running) -> tuple[Tensor, Tensor]:
    """The latents with which the pipeline's own run begins and ends."""
    seen, scheduler = list[Tensor](), running.pipe.scheduler

    def step(output: Tensor, t: Any, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        made = type(scheduler).step(scheduler, output, t, latents, *args, **kwargs)
        seen.extend([latents.clone(), made[0].clone()])
        return made

    scheduler.step = step
    running(STEPS)
    del scheduler.step
    return seen[0], seen[-1]


@pytest.mark.parametrize("name", TAKEN_APART)
@torch.no_grad()
def test_call_by_call_it_draws_what_the_pipeline_draws(name: str) -> None:
    denoised = built(name)
    denoiser = taken_apart(denoised)
    begin, end = drawn(built(name))
    at = replace(denoiser.begin([0]), x=begin)
    for call in range(len(denoiser.timesteps)):
        at = denoiser.advance(at, denoiser.predict(at, call), call)
    torch.testing.assert_close(at.x, end, rtol=1e-4, atol=1e-4 * float(end.abs().max()))
    served.check(served.DIFFUSERS, type(denoised.pipe).__name__, "train", served.SERVED)
    assert denoiser.begin([3, 4]).x.shape == (2, *begin.shape[1:])


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_more_than_a_network_and_a_sampler_is_refused_and_left_as_it_was(name: str) -> None:
    running = PIPELINES[name]()
    scheduler, before = running.pipe.scheduler, dict(vars(running.pipe.scheduler))
    with pytest.raises(ModelError, match=REFUSED[name]) as refused:
        taken_apart(running)
    if name not in TAKEN_APART:
        served.check(served.DIFFUSERS, type(running.pipe).__name__, "train", str(refused.value))
    assert running.pipe.scheduler is scheduler and vars(scheduler) == before
    assert not running.network._forward_hooks


def test_prompt_and_empty_prompt_of_other_lengths_are_refused_in_one_line() -> None:
    texts = [Rows(torch.zeros(2, tokens, 8)) for tokens in (7, 5)]
    conditions = ObservedConditions({"text": texts[0]}, {"text": texts[1]}, 2)
    assert conditions.rows([0, 1], guided=False)["text"].shape == (2, 7, 8)
    with pytest.raises(RecipeError, match=r"do not fit into one batch .* give guidance 1"):
        conditions.rows([0], guided=True)


@pytest.mark.parametrize("name", ["flux", "qwen_image", "wan"])
def test_a_mask_is_trained_and_runs_in_the_pipeline(name: str) -> None:
    """The smallest training; the pipeline then runs as many blocks as the mask says."""
    settings = TrainSettings(target=0.6, passes=1, batch=2, tries=2, refine_batch=1, profile_batch=1)
    mask = train(taken_apart(built(name)), settings).mask
    assert not mask.run.all() and abs(mask.provenance["share"] - 0.6) < 0.15
    running = built(name)
    with accelerate(running.pipe, BlockSkip(mask=mask)) as handle:
        running(STEPS)
        report = handle.report()
    assert 0 < report.blocks_run < report.blocks and not report.declined
