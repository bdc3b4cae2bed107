"""Noisy latents for training, with noise levels spread as a training needs them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from ..lab.demo_models.model import DemoFlowPipeline
from ..lab.demo_models.pictures import SIZE
from ..pipelines.noise import is_flow
from ..pipelines.packing import flux_positions, packed
from ..pipelines.prompts import NetworkArguments


def draw_timesteps(count: int, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Timesteps int64 [count] whose log-SNR is spread like that of the shifted cosine schedule.

    The linear schedule works with every sampler but spends half of its steps in near-pure noise. The log-SNR of the
    cosine schedule at time u is -2 log tan(pi u / 2); for pictures of 64 pixels it is shifted by 2 log(32 / 64), since
    flat shapes outlive more noise (Hoogeboom et al. 2023, simple diffusion, section 3.1).

    Args:
        count: how many.
        alphas_cumprod: of the scheduler, [T], falling.

    Example:
        >>> draw_timesteps(5, torch.linspace(0.999, 0.001, 1000)).shape
        torch.Size([5])
    """
    noise_to_signal = ((1 - alphas_cumprod) / alphas_cumprod).log()
    wanted = 2 * (torch.rand(count) * math.pi / 2).tan().log() + 2 * math.log(SIZE / 32)
    return torch.searchsorted(noise_to_signal, wanted).clamp(max=len(alphas_cumprod) - 1)


def draw_sigmas(count: int, shift: float, spread: float = 1.4) -> torch.Tensor:
    """Noise levels [count] of a flow model in 0..1: logit-normal, shifted as its sampler's (Esser et al. 2024, section 3.1).

    One is drawn from each of `count` equal parts of the distribution. The spread is wider than the paper's, so that short
    trainings see nearly pure noise, from which pictures start.

    Args:
        count: how many.
        shift: of the scheduler.
        spread: of the logits, before the shift.

    Example:
        >>> bool((draw_sigmas(8, shift=3.0).diff() > 0).all())
        True
    """
    quantiles = (torch.arange(count) + torch.rand(count)) / count
    return torch.sigmoid(spread * torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)) + math.log(shift))


def noised(scheduler: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents [B, 12, 32, 32], timesteps [B], and the velocity that the network shall predict, of the latents' shape.

    Args:
        scheduler: of a flow model, or of one that is trained by timesteps.
        latents: without noise [B, 12, 32, 32].

    Example:
        >>> from diffusers import DDPMScheduler
        >>> [part.shape[0] for part in noised(DDPMScheduler(), torch.zeros(2, 12, 32, 32))]
        [2, 2, 2]
    """
    noise = torch.randn_like(latents)
    if is_flow(scheduler):
        sigmas = draw_sigmas(len(latents), scheduler.shift)
        t = sigmas * scheduler.config.num_train_timesteps
        return latents.lerp(noise, sigmas.view(-1, 1, 1, 1)), t, noise - latents
    t = draw_timesteps(len(latents), scheduler.alphas_cumprod)
    return scheduler.add_noise(latents, noise, t), t, scheduler.get_velocity(latents, noise, t)


def some_tokens_loss(
    pipe: DemoFlowPipeline, x: torch.Tensor, t: torch.Tensor, wanted: torch.Tensor, arguments: NetworkArguments
) -> torch.Tensor:
    """The flow model's loss on a random quarter of the picture's tokens, each at its own position (Zheng et al. 2023, MaskDiT).

    Args:
        pipe: of the model.
        x: noisy latents [B, 12, 32, 32].
        t: timesteps [B].
        wanted: the velocity, of the shape of x.
        arguments: encoded prompts.
    """
    positions = flux_positions(x, arguments["encoder_hidden_states"])
    count = len(positions["img_ids"])
    chosen = torch.randperm(count)[: count // 4]
    positions["img_ids"] = positions["img_ids"][chosen]
    velocity = pipe.network(packed(x)[:, chosen], timestep=pipe.time(t, x), **arguments, **positions).sample
    return F.mse_loss(velocity.float(), packed(wanted)[:, chosen])
