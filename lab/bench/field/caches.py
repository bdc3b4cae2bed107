"""Caches inside transformers: cache-dit, and diffusers' own hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch

from ....core.errors import SkipstoneError
from ....pipelines.denoiser import PipelineDenoiser
from .package import Put, network_way
from .way import Host, Way

_CALIBRATION = range(20_000, 20_002)
"""Seeds for caches that calibrate on the model."""
_CLASSED = (r"transformer_blocks\.\d+\.(attn1|ff)",)
"""What TaylorSeer caches in a DiT with classes, whose names its own list does not have."""


def caches(steps: int) -> list[Way]:
    """Return the caches, with thresholds near half of the multiply-adds and settings of the packages' pages.

    Args:
        steps: of the dense run.

    Example:
        >>> caches(20)[0].name
        'cache-dit DBCache .12'
    """
    return [*_cache_dit(steps), *_hooks()]


def _cache_dit(steps: int) -> list[Way]:
    """DBCache at two thresholds, alone and with its forecasters, and its static masks of steps (SCM)."""
    every = [int(call < 2 or call % 2 == 0 or call == steps - 1) for call in range(steps)]
    found: list[tuple[str, Put]] = [(f"DBCache .{n}", partial(_dbcache, n / 100, "", ())) for n in (12, 24)]
    found += [(f"DBCache .24, {name}", partial(_dbcache, 0.24, name, ())) for name in ("TaylorSeer", "FoCa", "DMD")]
    found.append(("SCM every 2, TaylorSeer", partial(_dbcache, 1.0, "TaylorSeer", every)))
    return [network_way(f"cache-dit {name}", "cache-dit", put) for name, put in found]


def _dbcache(threshold: float, forecaster: str, mask: Sequence[int], host: Host) -> None:
    _transformers_only(host)
    import cache_dit

    static = {"steps_computation_mask": list(mask), "steps_computation_policy": "static"} if mask else {}
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=threshold, max_warmup_steps=max(2, host.calls // 6),
        num_inference_steps=host.calls, **static,
    )  # fmt: skip
    calibrator = getattr(cache_dit, f"{forecaster}CalibratorConfig")() if forecaster else None
    cache_dit.enable_cache(host.network, cache_config=config, calibrator_config=calibrator)


def _hooks() -> list[Way]:
    """diffusers' caches. Settings that are functions are of the host."""
    taylor = {"taylor_factors_dtype": torch.float32, "cache_identifiers": _cached_parts}
    attention = {"spatial_attention_block_skip_range": 2, "current_timestep_callback": _timestep}
    mag = {"num_inference_steps": lambda host: host.calls, "mag_ratios": lambda host: _mag_ratios(host.source)}
    faster = {"tensor_format": "BCHW", "attention_weight_callback": lambda host: lambda module: 0.5}
    found: list[tuple[str, str, dict[str, Any]]] = [
        ("FirstBlockCache 0.1", "first_block_cache", {"threshold": 0.1}),
        ("FirstBlockCache 0.2", "first_block_cache", {"threshold": 0.2}),
        ("TaylorSeer every 2", "taylorseer_cache", {"cache_interval": 2, **taylor}),
        ("TaylorSeer every 3", "taylorseer_cache", {"cache_interval": 3, **taylor}),
        ("MagCache 0.1", "mag_cache", {"threshold": 0.1, **mag}),
        ("MagCache 0.2", "mag_cache", {"threshold": 0.2, **mag}),
        ("SeaCache .25", "sea_cache", {"threshold": 0.25}),
        ("PAB every 2", "pyramid_attention_broadcast", attention),
        ("FasterCache", "faster_cache", {**faster, **attention}),
    ]
    return [network_way(f"diffusers {name}", "diffusers", partial(_hook, kind, given)) for name, kind, given in found]


_CONFIGS = {
    "first_block_cache": "FirstBlockCacheConfig",
    "taylorseer_cache": "TaylorSeerCacheConfig",
    "mag_cache": "MagCacheConfig",
    "sea_cache": "SeaCacheConfig",
    "pyramid_attention_broadcast": "PyramidAttentionBroadcastConfig",
    "faster_cache": "FasterCacheConfig",
}
"""Names of diffusers' settings, by the end of the functions that apply them."""


def _hook(kind: str, settings: dict[str, Any], host: Host) -> None:
    """Apply a cache of diffusers. The host calls the network once for both halves of guidance: one cache context."""
    _transformers_only(host)
    from diffusers import hooks

    given = {name: value(host) if callable(value) else value for name, value in settings.items()}
    getattr(hooks, f"apply_{kind}")(host.network, getattr(hooks, _CONFIGS[kind])(**given))
    _in_context(host)


def _transformers_only(host: Host) -> None:
    if not hasattr(host, "transformer"):
        raise SkipstoneError("it serves transformers alone")


def _cached_parts(host: Host) -> Sequence[str] | None:
    """Return the parts of a block that TaylorSeer caches; None for its own list."""
    return _CLASSED if any(name.endswith("attn1") for name, _ in host.network.named_modules()) else None


def _timestep(host: Host) -> Callable[[], int]:
    """Return the function that tells a hook the timestep of the call."""
    at = [0]
    host.on_call.append(lambda call: at.__setitem__(0, int(host.denoiser.timesteps[call])))
    return lambda: at[0]


def _in_context(host: Host) -> None:
    """Set diffusers' cache context before each call, as its pipelines do."""
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    def enter(call: int) -> None:
        noise = host.denoiser.noise(call)
        sigma = None if noise is None else noise.sigma / (noise.sigma + noise.alpha)
        context = CacheContext("both", step_index=call, num_inference_steps=host.calls, sigma=sigma)
        _set_cache_context(host.network, context)

    host.on_call.append(enter)


@cache
def _mag_ratios(denoiser: PipelineDenoiser) -> list[float]:
    """Return MagCache's ratios of a model: its own calibration, on noises that no figure is measured on."""
    from diffusers.hooks import MagCacheConfig, apply_mag_cache

    aside = Host(denoiser)
    # One step more than there are: at its last one the hook prints the ratios and forgets them.
    apply_mag_cache(aside.network, MagCacheConfig(calibrate=True, num_inference_steps=aside.calls + 1))
    at = aside.begin(_CALIBRATION)
    for call in range(aside.calls):
        at = aside.denoiser.advance(at, aside.denoiser.predict(at, call), call)
    registries = [
        vars(module)["_diffusers_hook"] for module in aside.network.modules() if "_diffusers_hook" in vars(module)
    ]
    states = [hook.state_manager.get_state() for registry in registries for hook in registry.hooks.values()]
    return next(list(state.calibration_ratios) for state in states if state.calibration_ratios)
