"""diffusers' samplers by short names."""

from __future__ import annotations

from typing import Any

from ..core.errors import RecipeError

SAMPLERS = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "ddpm": "DDPMScheduler",
}
"""Short name -> diffusers' class."""


def set_sampler(pipe: Any, name: str) -> None:
    """Give a pipeline another sampler, with the settings of its own.

    Args:
        pipe: a diffusers pipeline.
        name: a name of :data:`SAMPLERS`; "" leaves the pipeline's own.

    Raises :class:`RecipeError` for another name.

    Example:
        >>> set_sampler(None, "eulr")
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no sampler 'eulr': choose ddim, euler, euler_a, heun, dpmpp_2m, unipc, ddpm
    """
    if not name:
        return
    if name not in SAMPLERS:
        raise RecipeError(f"no sampler {name!r}: choose {', '.join(SAMPLERS)}")
    import diffusers

    pipe.scheduler = getattr(diffusers, SAMPLERS[name]).from_config(pipe.scheduler.config)
