"""The noise levels of diffusers' schedulers, and what their networks predict. diffusers is not imported."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..core.forecast.space import Noise, Predicts
from ..core.plan.run import Horizon
from ..core.plan.step_lengths import slopes

_PREDICTS: dict[str, Predicts] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
_FLOWS = ("FlowMatch", "LTXEuler")
_NOISY = ("Ancestral", "SDE", "SASolver", "DDPM", "LCM", "TCD")
_DISTILLED = ("LCM", "TCD", "CMStochastic", "SCM", "HeliosDMD")
_MULTISTEP = ("Multistep", "LMS", "PNDM", "SASolver", "CogVideoXDPM")
# By parts of the class names of diffusers' schedulers.
_FIRST_ORDER = ("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler")
_DPM = "DPMSolverMultistepScheduler"

_FEW = 15
"""With fewer steps than this, diffusers' DPM++ ends with a step of first order."""


def noise_at(scheduler: Any, timestep: float, rising: bool = False) -> Noise | None:
    """Return the noise level of a network's input at a training timestep; None for schedulers of other kinds (EDM).

    All schedulers of variance-preserving models hand the network an input of unit variance.

    Args:
        scheduler: a diffusers scheduler.
        timestep: training timestep, between two of the schedule's too.
        rising: whether the network's time runs from noise to picture, and its velocity with it.

    Example:
        >>> from diffusers import DDIMScheduler
        >>> noise = noise_at(DDIMScheduler(), 500.0)
        >>> noise.predicts, round(noise.alpha**2 + noise.sigma**2, 6)
        ('eps', 1.0)
    """
    config = scheduler.config
    if is_flow(scheduler):
        sigma = min(1.0, max(0.0, timestep / float(config.num_train_timesteps)))
        return Noise.of_flow(sigma, "-flow" if rising else "flow")
    predicts = _PREDICTS.get(getattr(config, "prediction_type", ""))
    levels = getattr(scheduler, "alphas_cumprod", None)
    if predicts is None or predicts == "flow" or levels is None:
        return None
    table = _log_sigmas(levels)
    return Noise.of_karras(float(np.exp(np.interp(timestep, np.arange(len(table)), table))), predicts)


def _log_sigmas(levels: Tensor) -> np.ndarray:
    """Return log sigma at each training timestep. It waits for the device once for each list of levels, which schedulers keep.

    Args:
        levels: cumulative products of alpha; `add_noise` of most schedulers moves them to the device.
    """
    version = 0 if levels.is_inference() else levels._version
    known = _TABLES.get(levels)
    if known is None or known[0] != version:
        table = levels.double().cpu().numpy()
        sigmas = np.sqrt((1 - table) / np.maximum(table, 1e-12))
        _TABLES[levels] = known = version, np.log(np.maximum(sigmas, 1e-12))
    return known[1]


_TABLES: Any = WeakIdKeyDictionary()


def horizon_of(scheduler: Any, timesteps: tuple[float, ...]) -> Horizon:
    """Return what is known ahead of a run.

    Args:
        scheduler: a diffusers scheduler.
        timesteps: training timestep of each call.

    Example:
        >>> from diffusers import HeunDiscreteScheduler
        >>> run = horizon_of(HeunDiscreteScheduler(), (900.0, 600.0, 600.0, 300.0, 300.0))
        >>> run.stages, run.stochastic, run.multistep
        (2, False, False)
    """
    levels = _levels_of(scheduler, timesteps)
    return Horizon(
        timesteps,
        float(getattr(scheduler.config, "num_train_timesteps", 1000)),
        int(getattr(scheduler, "order", 1) or 1),
        stochastic=adds_noise(scheduler),
        distilled=is_distilled(scheduler),
        multistep=is_multistep(scheduler),
        levels=levels,
        slopes=_slopes_of(scheduler, levels) if _is_dpmpp_2m(scheduler) else (),
    )


def _levels_of(scheduler: Any, timesteps: tuple[float, ...]) -> tuple[float, ...]:
    """Return sigma / alpha at each timestep and after the last one (:attr:`Horizon.levels`); () for other samplers."""
    name, last = type(scheduler).__name__, -len(timesteps) - 1
    if name == "DDIMScheduler":
        end, levels = float(scheduler.final_alpha_cumprod), [noise_at(scheduler, t) for t in timesteps]
        known = [one.ratio for one in levels if one is not None]
        return (*known, math.sqrt((1 - end) / end))
    if not (name in _FIRST_ORDER or _is_dpmpp_2m(scheduler)) or getattr(scheduler.config, "invert_sigmas", False):
        return ()
    sigmas = [float(sigma) for sigma in scheduler.sigmas[last:]]
    return tuple(Noise.of_flow(sigma, "flow").ratio for sigma in sigmas) if is_flow(scheduler) else tuple(sigmas)


def _is_dpmpp_2m(scheduler: Any) -> bool:
    """Return whether a scheduler is DPM++ 2M: two steps, with midpoints, on the picture, which it does not clip."""
    config = scheduler.config
    kind = (config.algorithm_type, config.solver_order, config.solver_type) if type(scheduler).__name__ == _DPM else ()
    return kind == ("dpmsolver++", 2, "midpoint") and not config.thresholding


def _slopes_of(scheduler: Any, levels: tuple[float, ...]) -> tuple[float, ...]:
    """Return :attr:`Horizon.slopes` of DPM++ 2M."""
    config, found = scheduler.config, slopes(levels)
    last = config.euler_at_final or (config.lower_order_final and len(scheduler.timesteps) < _FEW)
    return (*found[:-1], 0.0) if last else found


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler samples a flow model, whose input is (1 - sigma) x0 + sigma eps.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> is_flow(FlowMatchEulerDiscreteScheduler())
        True
    """
    config = scheduler.config
    return type(scheduler).__name__.startswith(_FLOWS) or bool(getattr(config, "use_flow_sigmas", False))


def adds_noise(scheduler: Any) -> bool:
    """Return whether a scheduler adds noise at its steps.

    Example:
        >>> from diffusers import EulerAncestralDiscreteScheduler
        >>> adds_noise(EulerAncestralDiscreteScheduler())
        True
    """
    config, name = scheduler.config, type(scheduler).__name__
    kind = str(getattr(config, "algorithm_type", ""))
    return (
        any(part in name for part in _NOISY)
        or kind.startswith("sde")
        or bool(getattr(config, "stochastic_sampling", 0))
    )


def is_distilled(scheduler: Any) -> bool:
    """Return whether a scheduler is for distilled models, whose few steps are too large to forecast.

    Example:
        >>> from diffusers import LCMScheduler
        >>> is_distilled(LCMScheduler())
        True
    """
    return any(part in type(scheduler).__name__ for part in _DISTILLED)


def is_multistep(scheduler: Any) -> bool:
    """Return whether a scheduler continues the outputs of earlier steps.

    Example:
        >>> from diffusers import UniPCMultistepScheduler
        >>> is_multistep(UniPCMultistepScheduler())
        True
    """
    return any(part in type(scheduler).__name__ for part in _MULTISTEP)
