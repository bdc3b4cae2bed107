"""The latents, timesteps and guidance of a pipeline's run."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ..core.errors import RecipeError
from ..core.recipe.validate import integer


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
    own = network.config.sample_size
    if size is None:
        return (network.config.in_channels, *((own, own) if isinstance(own, int) else own))
    if "height" not in inspect.signature(pipe.__call__).parameters:
        raise RecipeError(f"{type(pipe).__name__} draws at one size only: leave --size out")
    scale, patch = int(pipe.vae_scale_factor), int(network.config.get("patch_size") or 1)
    multiple, most = max(8, scale * patch), network.config.get("pos_embed_max_size")
    if size < multiple or size % multiple or (most and size > most * scale * patch):
        limit = f" up to {most * scale * patch}" if most else ""
        raise RecipeError(f"size={size} cannot be drawn by this model: give a multiple of {multiple}{limit}")
    return (network.config.in_channels, size // scale, size // scale)


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
    more = {"mu": _shift(scheduler, network, shape)} if getattr(scheduler.config, "use_dynamic_shifting", False) else {}
    try:
        scheduler.set_timesteps(steps, device=next(network.parameters()).device, **more)
    except ValueError as error:
        raise RecipeError(
            f"steps={steps} do not work with {type(scheduler).__name__} ({str(error).splitlines()[0]}): give another number"
        ) from None


def _shift(scheduler: Any, network: Any, shape: tuple[int, ...]) -> float:
    """Return the timestep shift of a flow sampler for a latent [C, h, w], linear in the number of tokens."""
    config, patch = scheduler.config, int(network.config.get("patch_size") or 1)
    tokens = (shape[-2] // patch) * (shape[-1] // patch)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
    return float(low + (high - low) * (tokens - few) / (many - few))
