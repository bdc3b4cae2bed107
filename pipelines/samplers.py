"""diffusers' samplers by short names."""

from __future__ import annotations

from importlib.util import find_spec
from inspect import signature
from typing import Any, NamedTuple

from ..core.errors import RecipeError
from .noise import is_flow


class Sampler(NamedTuple):
    """A scheduler of diffusers with settings.

    Args:
        kind: name of its class.
        settings: that differ from the pipeline's own.
        package: what it needs beside diffusers.

    Example:
        >>> SAMPLERS["ddim"].kind
        'DDIMScheduler'
    """

    kind: str
    settings: dict[str, Any] = {}  # noqa: RUF012
    package: str = ""


_KARRAS = {"use_karras_sigmas": True}
_DPM, _SDE = "DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}

SAMPLERS = {
    "ddim": Sampler("DDIMScheduler"),
    "euler": Sampler("EulerDiscreteScheduler"),
    "euler_karras": Sampler("EulerDiscreteScheduler", _KARRAS),
    "heun": Sampler("HeunDiscreteScheduler"),
    "dpm_2": Sampler("KDPM2DiscreteScheduler"),
    "dpmpp_2s": Sampler("DPMSolverSinglestepScheduler"),
    "pndm": Sampler("PNDMScheduler"),
    "lms": Sampler("LMSDiscreteScheduler", package="scipy"),
    "deis": Sampler("DEISMultistepScheduler"),
    "dpmpp_2m": Sampler(_DPM),
    "dpmpp_2m_karras": Sampler(_DPM, _KARRAS),
    "dpmpp_3m": Sampler(_DPM, {"solver_order": 3}),
    "dpmpp_3m_karras": Sampler(_DPM, {"solver_order": 3} | _KARRAS),
    "unipc": Sampler("UniPCMultistepScheduler"),
    "ddpm": Sampler("DDPMScheduler"),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler"),
    "dpm_2_a": Sampler("KDPM2AncestralDiscreteScheduler"),
    "dpmpp_2m_sde": Sampler(_DPM, _SDE),
    "dpmpp_2m_sde_karras": Sampler(_DPM, _SDE | _KARRAS),
    "dpmpp_sde": Sampler("DPMSolverSDEScheduler", package="torchsde"),
    "sa_solver": Sampler("SASolverScheduler"),
}
"""Short name -> scheduler."""
FLOW_SAMPLERS = {
    "euler": Sampler("FlowMatchEulerDiscreteScheduler"),
    "heun": Sampler("FlowMatchHeunDiscreteScheduler"),
    "dpmpp_2m": Sampler(_DPM),
    "unipc": Sampler("UniPCMultistepScheduler"),
}
"""The same for flow models."""


def check_sampler(name: str, flow: bool = False) -> None:
    """Raise :class:`RecipeError` for a name that is not known.

    Args:
        name: short name.
        flow: of the samplers of flow models alone.

    Example:
        >>> check_sampler("eulr")
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no sampler 'eulr': choose ddim, euler, ...
    """
    known = FLOW_SAMPLERS if flow else SAMPLERS
    if name not in known:
        raise RecipeError(f"no sampler {name!r}{' of flow models' if flow else ''}: choose {', '.join(known)}")


def missing_package(name: str, flow: bool = False) -> str:
    """Return the package that a sampler needs and that is not installed; "" if there is none.

    Args:
        name: short name.
        flow: of the samplers of flow models.

    Example:
        >>> missing_package("ddim")
        ''
    """
    package = (FLOW_SAMPLERS if flow else SAMPLERS)[name].package
    return package if package and find_spec(package) is None else ""


def set_sampler(pipe: Any, name: str) -> None:
    """Give a pipeline another sampler, with the settings of its own.

    Args:
        pipe: a diffusers pipeline.
        name: a name of :data:`SAMPLERS`, for a flow model of :data:`FLOW_SAMPLERS`; "" leaves the pipeline's own.

    Raises :class:`RecipeError` for another name, or a sampler whose package is not installed.

    Example:
        >>> from types import SimpleNamespace
        >>> from diffusers import DDIMScheduler
        >>> set_sampler(SimpleNamespace(scheduler=DDIMScheduler()), "eulr")
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no sampler 'eulr': choose ddim, euler, ...
    """
    if not name:
        return
    flow = is_flow(pipe.scheduler)
    check_sampler(name, flow)
    if package := missing_package(name, flow):
        raise RecipeError(f"the sampler {name} needs {package}: pip install {package}")
    import diffusers

    kind, settings, _ = (FLOW_SAMPLERS if flow else SAMPLERS)[name]
    found = getattr(diffusers, kind)
    config = _as_flow(pipe.scheduler.config, found) if flow else pipe.scheduler.config
    pipe.scheduler = found.from_config(config, **settings)


def _as_flow(config: Any, kind: type) -> dict[str, Any]:
    """Return the part of a flow sampler's config that another one takes, by the names that it has there."""
    shift = config.get("flow_shift", config.get("shift", 1.0))
    ours = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift, "shift": shift}
    taken = {*signature(kind).parameters, "_use_default_values"}
    return {name: value for name, value in {**config, **ours}.items() if name in taken}
