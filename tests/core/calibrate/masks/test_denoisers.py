"""diffusers pipelines come apart into calls: together these draw what the pipeline draws, bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import icons
import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.calibrate.denoiser import Trajectory
from skipstone.core.calibrate.masks.masked_model import prepare
from skipstone.core.errors import ModelError
from skipstone.core.models import recognise
from skipstone.lab.demo_models.model import load_demo
from skipstone.pipelines.conditions import Conditions, from_embeddings
from skipstone.pipelines.denoiser import PipelineDenoiser, denoiser_of
from skipstone.pipelines.runs import initial_scale

SCHEDULERS = [
    "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler",
    "KDPM2DiscreteScheduler", "DDPMScheduler",
]  # fmt: skip


@torch.no_grad()
def drawn(denoiser: PipelineDenoiser, seeds: Sequence[int]) -> Tensor:
    """The whole run, call by call."""
    at = denoiser.begin(seeds)
    for call in range(len(denoiser.timesteps)):
        at = denoiser.advance(at, denoiser.predict(at, call), call)
    return at.x


def sd_denoiser(scheduler: str, steps: int = 6, **config: Any) -> tuple[Any, PipelineDenoiser]:
    """The tiny Stable Diffusion pipeline, with the embeddings that `run_sd` gives it."""
    pipe = tiny.sd_pipeline(scheduler, **config)
    embeddings = from_embeddings(tiny.noise(1, *tiny.CONTEXT, seed=1), tiny.noise(1, *tiny.CONTEXT, seed=2))
    return pipe, denoiser_of(pipe, steps, 4.0, conditions=embeddings)


def generator_after_noise(seed: int, shape: tuple[int, ...]) -> torch.Generator:
    """A generator from which a sample's noise was drawn."""
    generator = torch.Generator().manual_seed(seed)
    torch.randn(shape, generator=generator)
    return generator


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_call_by_call_is_what_the_pipeline_draws_with_every_sampler(scheduler: str) -> None:
    pipe, denoiser = sd_denoiser(scheduler)
    shape = (4, 16, 16)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(11))[None]
    expected = tiny.run_sd(pipe, latents=noise, generator=generator_after_noise(11, shape))
    torch.testing.assert_close(drawn(denoiser, [11]), expected, rtol=1e-4, atol=1e-4)


def test_class_conditional_dit_with_guidance_and_learned_variance() -> None:
    pipe = tiny.dit_pipeline()
    denoiser = denoiser_of(pipe, 5, prompts=["3"])
    labels = denoiser.begin([0]).cond["class_labels"]
    assert labels.tolist() == [1000, 3]
    latents: list[Tensor] = []
    decode = pipe.vae.decode
    pipe.vae.decode = lambda z, *a, **k: (latents.append(z * pipe.vae.config.scaling_factor), decode(z, *a, **k))[1]
    pipe([3], generator=torch.Generator().manual_seed(4), num_inference_steps=5)
    torch.testing.assert_close(drawn(denoiser, [4]), latents[0], rtol=1e-4, atol=1e-5)


def test_unconditional_pixels() -> None:
    import diffusers

    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    pipe = diffusers.DDIMPipeline(tiny.randomise(unet), diffusers.DDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    pictures = pipe(generator=torch.Generator().manual_seed(3), num_inference_steps=4, output_type="np").images
    latents = drawn(denoiser_of(pipe, 4), [3])
    torch.testing.assert_close((latents / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy(), pictures, rtol=0, atol=1e-5)


def test_the_demos_pipelines(tmp_path: Path) -> None:
    for kind, path in icons.save_narrow(tmp_path).items():
        pipe = load_demo(kind, path)
        pipe.set_progress_bar_config(disable=True)
        denoiser = denoiser_of(pipe, 3, prompts=["2"])
        at = denoiser.begin([5])
        picture = pipe([2], 3, latents=at.x / initial_scale(pipe.scheduler), output_type="latent").images
        torch.testing.assert_close(drawn(denoiser, [5]), picture, rtol=1e-4, atol=1e-5)


def tiny_sd3() -> Any:
    """SD3's transformer and flow sampler, without encoders."""
    import diffusers

    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=12, out_channels=4,
        pos_embed_max_size=8,
    )  # fmt: skip
    return tiny.randomise(transformer), diffusers.FlowMatchEulerDiscreteScheduler()


def test_sd3_from_given_embeddings() -> None:
    transformer, scheduler = tiny_sd3()
    scheduler.set_timesteps(4)
    arguments = {"encoder_hidden_states": tiny.noise(2, 5, 16), "pooled_projections": tiny.noise(2, 12)}
    empty = {k: torch.zeros_like(v[:1]) for k, v in arguments.items()}
    denoiser = PipelineDenoiser(transformer, scheduler, Conditions(arguments, empty, 2), (4, 8, 8), 3.0)
    model = prepare(denoiser)
    assert model.family == "diffusers SD3" and model.shape == (4, 2)
    run = torch.ones(4, 2, dtype=torch.bool).numpy()
    assert torch.equal(model.rollout([1, 2], run), drawn(denoiser, [1, 2]))
    run[2] = False
    assert not torch.allclose(model.rollout([1, 2], run), drawn(denoiser, [1, 2]), atol=1e-3)


def test_pixart_from_given_embeddings() -> None:
    import diffusers

    case = tiny.pixart()
    scheduler = diffusers.DPMSolverMultistepScheduler()
    scheduler.set_timesteps(4)
    extra = {"resolution": None, "aspect_ratio": None}
    conditions = from_embeddings(tiny.noise(2, *tiny.CONTEXT), torch.zeros(1, *tiny.CONTEXT), added_cond_kwargs=extra)
    denoiser = PipelineDenoiser(case.model, scheduler, conditions, (4, 16, 16), 4.5)
    model = prepare(denoiser)
    assert model.shape == (4, 6) and torch.isfinite(drawn(denoiser, [1])).all()


@pytest.mark.parametrize(
    "scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"]
)
def test_a_sample_depends_on_its_seed_alone(scheduler: str) -> None:
    _, denoiser = sd_denoiser(scheduler)
    together, alone = drawn(denoiser, [1, 2, 3]), drawn(denoiser, [2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "scheduler", ["DPMSolverMultistepScheduler", "PNDMScheduler", "EulerAncestralDiscreteScheduler"]
)
def test_a_fork_goes_its_own_way_and_carries_no_gradient(scheduler: str) -> None:
    _, denoiser = sd_denoiser(scheduler)
    at = denoiser.begin([1])
    with torch.enable_grad():
        at = Trajectory(at.x.requires_grad_(), at.cond, at.history)
        for call in range(3):
            at = denoiser.advance(at, denoiser.predict(at, call), call)
    assert at.x.requires_grad
    fork = denoiser.fork(at)
    assert not fork.x.requires_grad
    ends = []
    for there in (fork, at):
        for call in range(3, len(denoiser.timesteps)):
            there = denoiser.advance(there, denoiser.predict(there, call), call)
        ends.append(there.x)
    assert torch.equal(ends[0], ends[1].detach()) and not ends[0].requires_grad


def test_predicting_is_pure_so_that_a_call_can_be_evaluated_again() -> None:
    _, denoiser = sd_denoiser("EulerDiscreteScheduler")
    at = denoiser.begin([1])
    first = denoiser.predict(at, 0)
    later = denoiser.fork(at)
    for call in range(4):
        later = denoiser.advance(later, denoiser.predict(later, call), call)
    assert torch.equal(denoiser.predict(at, 0), first)


def test_the_pipelines_own_scheduler_is_left_alone() -> None:
    pipe = tiny.sd_pipeline("DPMSolverMultistepScheduler")
    before = dict(vars(pipe.scheduler))
    denoiser = denoiser_of(pipe, 4, conditions=from_embeddings(tiny.noise(1, *tiny.CONTEXT)))
    drawn(denoiser, [1])
    assert {k: v for k, v in vars(pipe.scheduler).items() if v is not before.get(k)} == {}


def test_an_unknown_pipeline_is_refused_in_one_line() -> None:
    class Other:
        unet = None

    from skipstone.pipelines.conditions import conditions_of

    with pytest.raises(ModelError, match="Other has no prompts of a known kind"):
        conditions_of(Other())


def test_costs_are_counted_on_real_networks() -> None:
    _, denoiser = sd_denoiser("DDIMScheduler")
    model = prepare(denoiser)
    assert model.family == recognise(denoiser.network).name
    assert model.costs.rest > 0 and (model.costs.blocks > 0).all() and 0.8 < model.costs.masked.sum() < 1


@pytest.mark.parametrize("forecast", [False, True])
def test_a_mask_drawn_with_by_the_engine_is_what_training_saw(forecast: bool) -> None:
    import numpy as np

    from skipstone.core.recipe.block_skip import BlockSkip
    from skipstone.core.recipe.mask import Mask
    from skipstone.pipelines.accelerate import accelerate

    pipe, denoiser = sd_denoiser("DDIMScheduler", 8)
    model = prepare(denoiser, forecast=forecast)
    run = np.random.default_rng(0).random(model.shape) < 0.5
    run[0] = True
    noise = denoiser.begin([7]).x
    with accelerate(pipe, BlockSkip(mask=model.mask(run))):
        picture = tiny.run_sd(pipe, steps=8, latents=noise)
    torch.testing.assert_close(model.rollout([7], run), picture, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(picture, tiny.run_sd(pipe, steps=8, latents=noise), atol=1e-3)
    assert isinstance(model.mask(run), Mask) and model.mask(run).forecast == forecast
