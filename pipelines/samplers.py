"""diffusers' samplers by short names."""

from __future__ import annotations

from inspect import signature
from typing import Any

from ..core.errors import RecipeError
from .noise import is_flow

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
FLOW_SAMPLERS = {
    "euler": "FlowMatchEulerDiscreteScheduler",
    "heun": "FlowMatchHeunDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""The same for flow models."""


def set_sampler(pipe: Any, name: str) -> None:
    """Give a pipeline another sampler, with the settings of its own.

    Args:
        pipe: a diffusers pipeline.
        name: a name of :data:`SAMPLERS`, for a flow model of :data:`FLOW_SAMPLERS`; "" leaves the pipeline's own.

    Raises :class:`RecipeError` for another name.

    Example:
        >>> from types import SimpleNamespace
        >>> from diffusers import DDIMScheduler
        >>> set_sampler(SimpleNamespace(scheduler=DDIMScheduler()), "eulr")
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no sampler 'eulr': choose ddim, euler, euler_a, heun, dpmpp_2m, unipc, ddpm
    """
    if not name:
        return
    flow = is_flow(pipe.scheduler)
    known = FLOW_SAMPLERS if flow else SAMPLERS
    if name not in known:
        raise RecipeError(f"no sampler {name!r}{' of flow models' if flow else ''}: choose {', '.join(known)}")
    import diffusers

    kind = getattr(diffusers, known[name])
    config = _as_flow(pipe.scheduler.config, kind) if flow else pipe.scheduler.config
    pipe.scheduler = kind.from_config(config)


def _as_flow(config: Any, kind: type) -> dict[str, Any]:
    """Return the part of a flow sampler's config that another one takes, by the names that it has there."""
    shift = config.get("flow_shift", config.get("shift", 1.0))
    ours = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift, "shift": shift}
    taken = {*signature(kind).parameters, "_use_default_values"}
    return {name: value for name, value in {**config, **ours}.items() if name in taken}
