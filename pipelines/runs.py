"""What one run of a pipeline looks like: its latents, its timesteps, its guidance."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from ..core.errors import RecipeError
from ..core.recipe.validate import integer


def guidance_of(pipe: Any) -> float:
    """The pipeline's own guidance scale; 1 where it has none."""
    own = getattr(inspect.signature(pipe.__call__).parameters.get("guidance_scale"), "default", 1.0)
    return 1.0 if own is inspect.Parameter.empty else float(own)


def latent_shape(pipe: Any, network: Any, size: int | None = None) -> tuple[int, ...]:
    """The shape of one latent. size: picture side in pixels, the model's own by default.

    Raises :class:`RecipeError` for a size that the pipeline cannot draw.
    """
    own = network.config.sample_size
    if size is None:
        return (network.config.in_channels, *((own, own) if isinstance(own, int) else own))
    if "height" not in inspect.signature(pipe.__call__).parameters:
        raise RecipeError(f"{type(pipe).__name__} draws at its own size alone: leave --size out")
    scale, patch = int(pipe.vae_scale_factor), int(network.config.get("patch_size") or 1)
    multiple, most = max(8, scale * patch), network.config.get("pos_embed_max_size")
    if size < multiple or size % multiple or (most and size > most * scale * patch):
        limit = f" up to {most * scale * patch}" if most else ""
        raise RecipeError(f"size={size} cannot be drawn by this model: give a multiple of {multiple}{limit}")
    return (network.config.in_channels, size // scale, size // scale)


def set_timesteps(scheduler: Any, steps: int, network: nn.Module, shape: tuple[int, ...]) -> None:
    """Prepare a scheduler for a run as the pipelines do. Raises :class:`RecipeError` for steps that it cannot take."""
    integer("steps", steps, 1, "20 is the default")
    more = {"mu": _shift(scheduler, network, shape)} if getattr(scheduler.config, "use_dynamic_shifting", False) else {}
    try:
        scheduler.set_timesteps(steps, device=next(network.parameters()).device, **more)
    except ValueError as error:
        raise RecipeError(
            f"steps={steps} do not suit {type(scheduler).__name__} ({str(error).splitlines()[0]})"
        ) from None


def _shift(scheduler: Any, network: Any, shape: tuple[int, ...]) -> float:
    """How far a flow sampler's timesteps are shifted for a latent [C, h, w]: linear in the number of tokens."""
    config, patch = scheduler.config, int(network.config.get("patch_size") or 1)
    tokens = (shape[-2] // patch) * (shape[-1] // patch)
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.16)
    return float(low + (high - low) * (tokens - few) / (many - few))
