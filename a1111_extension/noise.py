"""The noise level of a U-Net's input, and what its output predicts there, as the host's model says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, floor
from typing import Any

from torch import Tensor

from ..core.engine.call import one_timestep
from ..core.forecast.space import Noise, Predicts
from .host import patcher_of

Levels = Callable[[float, Mapping[str, Any]], Noise | None]
"""(the U-Net's timestep argument, its transformer options) -> the noise level; None where the model's form is not known."""

_FORGE: dict[str, Predicts] = {"epsilon": "eps", "v_prediction": "v", "const": "flow"}
_REFORGE: dict[str, Predicts] = {"CONST": "flow", "V_PREDICTION": "v", "EPS": "eps"}
"""In this order: a class of velocity derives from that of noise."""

_LEAST = 1e-9
"""Least squared share of the picture: schedules with zero terminal SNR have none at their first timestep."""


def levels_of(p: Any) -> Levels:
    """The noise levels of the model that a processing object samples with."""
    patcher = patcher_of(p)
    if patcher is not None:
        return _patched(patcher.model)
    if getattr(p.sd_model, "is_sd3", False):
        return lambda timestep, options: Noise.of_flow(timestep / 1000)
    return _scheduled(p.sd_model)


def timesteps_of(sampler: Any, sigmas: Tensor) -> list[float] | None:
    """The timestep arguments of the network at noise levels; None where the host has no rule for them.

    Waits for the device once.

    Args:
        sampler: of k-diffusion, as the host makes it. Its denoiser is of the model that is loaded now.
        sigmas: noise levels [calls].
    """
    denoiser: Any = getattr(getattr(sampler, "model_wrap_cfg", None), "inner_model", None)
    if not callable(rule := getattr(denoiser, "sigma_to_t", None)):
        return None
    if getattr(denoiser.inner_model, "is_sd3", False):  # the rule is not the one that its model applies
        return (1000 * sigmas).tolist()
    return rule(sigmas.to(denoiser.sigmas.device)).flatten().tolist()  # type: ignore[no-any-return]


def ratios(p: Any, sigmas: Sequence[float]) -> list[float]:
    """sigma / alpha at noise levels of the model that a processing object samples with.

    Args:
        p: the processing object.
        sigmas: noise levels, one per call and the one that is reached.
    """
    patcher = patcher_of(p)
    flow = _predicts(patcher.model) == "flow" if patcher is not None else getattr(p.sd_model, "is_sd3", False)
    return [Noise.of_flow(sigma).ratio if flow else sigma for sigma in sigmas]


def schedule_sigmas(sampler: Any, timesteps: Sequence[int]) -> list[float]:
    """The noise levels of the model's schedule at timesteps; empty where it has none. Waits for the device once.

    Args:
        sampler: of timesteps, as the host makes it.
        timesteps: training timesteps.
    """
    denoiser: Any = getattr(getattr(sampler, "model_wrap_cfg", None), "inner_model", None)
    alphas = getattr(getattr(denoiser, "inner_model", None), "alphas_cumprod", None)
    if not isinstance(alphas, Tensor):
        return []
    kept = alphas.detach().double().clamp(_LEAST, 1 - _LEAST)[list(timesteps)]
    return ((1 - kept) / kept).sqrt().tolist()  # type: ignore[no-any-return]


def _scheduled(model: Any) -> Levels:
    """Levels between the timesteps of the schedule, as k-diffusion interpolates them. Waits for the device once."""
    alphas, predicts = getattr(model, "alphas_cumprod", None), getattr(model, "parameterization", None)
    if not isinstance(alphas, Tensor) or predicts not in ("eps", "v"):
        return lambda timestep, options: None
    kept = alphas.detach().double().clamp(_LEAST, 1 - _LEAST)
    logs = (0.5 * ((1 - kept) / kept).log()).tolist()

    def level(timestep: float, options: Mapping[str, Any]) -> Noise:
        at = min(max(timestep, 0.0), len(logs) - 1.0)
        low, share = floor(at), at - floor(at)
        log_sigma = logs[low] + share * (logs[min(low + 1, len(logs) - 1)] - logs[low])
        return Noise.of_karras(exp(log_sigma), predicts)

    return level


def _patched(model: Any) -> Levels:
    """Forge and reForge put each call's sigma into its options; the U-Net's timestep is rounded."""
    predicts = _predicts(model)

    def level(timestep: float, options: Mapping[str, Any]) -> Noise | None:
        if predicts is None or options.get("sigmas") is None:
            return None
        sigma = one_timestep(options["sigmas"])
        return Noise.of_flow(sigma) if predicts == "flow" else Noise.of_karras(sigma, predicts)

    return level


def _predicts(model: Any) -> Predicts | None:
    """What the network's output is. None for EDM, whose output is scaled otherwise, and for unknown kinds."""
    form = getattr(model, "predictor", None) or getattr(model, "model_sampling", None)
    if getattr(form, "sigma_data", 1.0) != 1.0:
        return None
    names = [kind.__name__ for kind in type(form).__mro__]
    kinds = [] if "EDM" in names else [predicts for name, predicts in _REFORGE.items() if name in names]
    return _FORGE.get(getattr(form, "prediction_type", ""), kinds[0] if kinds else None)
