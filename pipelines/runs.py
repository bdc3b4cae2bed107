"""The latents, timesteps and guidance of a pipeline's run."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..core.errors import RecipeError
from ..core.models.family import class_name
from ..core.recipe.validate import integer
from .noise import is_flow
from .packing import PACKING, takes_tokens


def guidance_of(pipe: Any) -> float:
    """Return the pipeline's default guidance scale; 1 if it has none.

    Example:
        >>> class Pipe:
        ...     def __call__(self, prompt, guidance_scale=7.5): ...
        >>> guidance_of(Pipe())
        7.5
    """
    own = getattr(inspect.signature(pipe.__call__).parameters.get("guidance_scale"), "default", 1.0)
    return 1.0 if own is inspect.Parameter.empty else float(own)


def latent_shape(pipe: Any, network: Any, size: int | None = None) -> tuple[int, ...]:
    """Return the shape [C, h, w] of one latent.

    Args:
        pipe: a diffusers pipeline.
        network: its U-Net or transformer.
        size: picture side in pixels; the model's own by default.

    Raises :class:`RecipeError` for a size that the pipeline cannot draw.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> network = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=16)
        >>> latent_shape(None, network)
        (4, 16, 16)
    """
    packs = takes_tokens(network)
    own = pipe.default_sample_size if packs else network.config.sample_size
    channels = network.config.in_channels // PACKING**2 if packs else network.config.in_channels
    if size is None:
        return (channels, *((own, own) if isinstance(own, int) else own))
    if "height" not in inspect.signature(pipe.__call__).parameters:
        raise RecipeError(f"{type(pipe).__name__} draws at one size only: leave --size out")
    scale, patch = int(pipe.vae_scale_factor), _token_side(network)
    multiple, most = max(8, scale * patch), network.config.get("pos_embed_max_size")
    if size < multiple or size % multiple or (most and size > most * scale * patch):
        limit = f" up to {most * scale * patch}" if most else ""
        raise RecipeError(f"size={size} cannot be drawn by this model: give a multiple of {multiple}{limit}")
    return (channels, size // scale, size // scale)


def _token_side(network: Any) -> int:
    """Return the side of a token in latent pixels."""
    return PACKING if takes_tokens(network) else int(network.config.get("patch_size") or 1)


def set_timesteps(scheduler: Any, steps: int, network: nn.Module, shape: tuple[int, ...]) -> None:
    """Set a scheduler's timesteps as the pipelines do.

    Args:
        scheduler: a diffusers scheduler.
        steps: number of sampler steps.
        network: the U-Net or transformer.
        shape: of one latent [C, h, w].

    Raises :class:`RecipeError` for a number of steps that the scheduler does not accept.

    Example:
        >>> from diffusers import DDIMScheduler
        >>> scheduler = DDIMScheduler()
        >>> set_timesteps(scheduler, 2, nn.Linear(1, 1), (4, 8, 8))
        >>> scheduler.timesteps.tolist()
        [500, 0]
    """
    integer("steps", steps, 1, "20 is the default")
    more: dict[str, Any] = {}
    if getattr(scheduler.config, "use_dynamic_shifting", False):
        more["mu"] = _shift(scheduler, network, shape)
    if _given_sigmas(scheduler, network):
        more["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    try:
        scheduler.set_timesteps(steps, device=next(network.parameters()).device, **more)
    except ValueError as error:
        raise RecipeError(
            f"steps={steps} do not work with {type(scheduler).__name__} ({str(error).splitlines()[0]}): give another number"
        ) from None


def _given_sigmas(scheduler: Any, network: nn.Module) -> bool:
    """Whether pipelines state the noise levels of this flow sampler, before its shift: all but SD3's do."""
    stated = "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
    return is_flow(scheduler) and stated and class_name(network) != "SD3Transformer2DModel"


def _shift(scheduler: Any, network: Any, shape: tuple[int, ...]) -> float:
    """Return the timestep shift of a flow sampler for a latent [C, h, w], linear in the number of tokens."""
    config, patch = scheduler.config, _token_side(network)
    tokens = (shape[-2] // patch) * (shape[-1] // patch)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
    return float(low + (high - low) * (tokens - few) / (many - few))


def scaled_input(scheduler: Any, latents: Tensor, t: Tensor) -> Tensor:
    """Return a network's input. Flow samplers take the latents as they are.

    Args:
        scheduler: a diffusers scheduler.
        latents: [B, ...].
        t: an entry of the schedule.

    Example:
        >>> import torch
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> scaled_input(FlowMatchEulerDiscreteScheduler(), torch.ones(2), torch.tensor(9.0)).tolist()
        [1.0, 1.0]
    """
    return scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents


def initial_scale(scheduler: Any) -> float:
    """Return the standard deviation of a run's first latents.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> initial_scale(FlowMatchEulerDiscreteScheduler())
        1.0
    """
    return getattr(scheduler, "init_noise_sigma", 1.0)
