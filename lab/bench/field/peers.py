"""The field: packages and diffusers' own hooks, installed as their documentation says. What does not apply says why."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ....core.calibrate.denoiser import Trajectory
from ....core.errors import SkipstoneError
from ..skip_ways import deepcache
from .way import Host, Install, Predict, Way

_CALIBRATION = range(20_000, 20_002)
"""Seeds for packages that calibrate on the model."""
_CLASSED = (r"transformer_blocks\.\d+\.(attn1|ff)",)
"""What TaylorSeer caches in a DiT with classes, whose names its own list does not have."""

Put = Callable[[Host], object]
"""Installs a package on a host's network. Any error of the package is a line in the table."""


def peers(steps: int) -> list[Way]:
    """Return all peers. Which apply to a model shows when they are installed.

    Args:
        steps: of the dense run.

    Example:
        >>> sorted({way.group for way in peers(20)})
        ['DeepCache', 'ca-tome', 'cache-dit', 'diffusers', 'hicache-pp', 'tomesd']
    """
    return [*_merging(), *_deepcache(), *_cache_dit(steps), *_hooks(steps), *_hicache(steps)]


def network_way(name: str, group: str, put: Put) -> Way:
    """Return a way that a package installs on the network.

    Args:
        name: in tables.
        group: the package.
        put: installs it.

    Example:
        >>> network_way("nothing", "none", lambda host: None).group
        'none'
    """

    @contextmanager
    def install(host: Host) -> Iterator[Predict]:
        with _quiet():
            put(host)
            yield host.denoiser.predict

    return Way(name, group, install)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the packages' log lines below warnings off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _blocks_of(host: Host, kind: str) -> None:
    """Raise :class:`SkipstoneError` where the network has no such part."""
    if not any(type(module).__name__ == kind for module in host.network.modules()):
        raise SkipstoneError(f"it changes {kind}, which this network does not have")


def _unet_only(host: Host) -> None:
    if not hasattr(host, "unet"):
        raise SkipstoneError("it serves U-Nets alone")


def _transformers_only(host: Host) -> None:
    if not hasattr(host, "transformer"):
        raise SkipstoneError("it serves transformers alone")


def _merging() -> list[Way]:
    """Merging of tokens at the finest resolution, without random destinations, which would make every run another one."""

    def tomesd(ratio: float) -> Put:
        def put(host: Host) -> None:
            import tomesd as package

            _blocks_of(host, "BasicTransformerBlock")
            package.apply_patch(host.network, ratio=ratio, max_downsample=_downsample(host), use_rand=False)

        return put

    def ca_tome(threshold: float) -> Put:
        def put(host: Host) -> None:
            from ca_tome.patch import apply_patch

            _blocks_of(host, "BasicTransformerBlock")
            every = list(range(0, host.calls, 3))
            apply_patch(host.network, every, r=threshold, max_downsample=_downsample(host), use_rand=False)
            patched = [module for module in host.network.modules() if hasattr(module, "_cache_info")]
            host.on_call.append(lambda call: [module.__dict__.update(inference_step=call) for module in patched])

        return put

    found = [network_way(f"tomesd {ratio:.0%}", "tomesd", tomesd(ratio)) for ratio in (0.25, 0.5)]
    return [*found, *(network_way(f"ca-tome {t}", "ca-tome", ca_tome(t)) for t in (0.9, 0.7))]


def _downsample(host: Host) -> int:
    """Return how much coarser than the latent the finest tokens are, for packages that choose layers by it."""
    return int(getattr(host.network.config, "patch_size", None) or 1)


def _deepcache() -> list[Way]:
    def put(every: int) -> Put:
        def install(host: Host) -> None:
            _unet_only(host)
            deepcache(every)(host.network, list(host.denoiser.timesteps))
            inner = host.network.forward
            # The package reads the timestep as the second positional argument.
            host.network.forward = lambda x, timestep, **given: inner(x, timestep.flatten()[0], **given)

        return install

    return [network_way(f"DeepCache every {every}", "DeepCache", put(every)) for every in (2, 3)]


def _cache_dit(steps: int) -> list[Way]:
    """DBCache at two thresholds, alone and with its forecasters, and its static masks of steps (SCM)."""

    def put(threshold: float, calibrator: str = "", mask: Sequence[int] | None = None) -> Put:
        def install(host: Host) -> None:
            _transformers_only(host)
            import cache_dit

            static: dict[str, Any] = (
                {"steps_computation_mask": list(mask), "steps_computation_policy": "static"} if mask else {}
            )
            config = cache_dit.DBCacheConfig(
                Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=threshold, max_warmup_steps=max(2, steps // 6),
                num_inference_steps=host.calls, **static,
            )  # fmt: skip
            forecaster = getattr(cache_dit, f"{calibrator}CalibratorConfig")() if calibrator else None
            cache_dit.enable_cache(host.network, cache_config=config, calibrator_config=forecaster)

        return install

    found = [("DBCache .12", put(0.12)), ("DBCache .24", put(0.24))]
    found += [(f"DBCache .24, {name}", put(0.24, name)) for name in ("TaylorSeer", "FoCa", "DMD")]
    every = [int(call < 2 or call % 2 == 0 or call == steps - 1) for call in range(steps)]
    found.append(("SCM every 2, TaylorSeer", put(1.0, "TaylorSeer", every)))
    return [network_way(f"cache-dit {name}", "cache-dit", one) for name, one in found]


def _hooks(steps: int) -> list[Way]:
    """diffusers' own caches, one forward for both halves of guidance, as the host calls the network."""

    def put(apply: str, config: str, **settings: Any) -> Put:
        def install(host: Host) -> None:
            _transformers_only(host)
            from diffusers import hooks

            given = {name: value(host) if callable(value) else value for name, value in settings.items()}
            getattr(hooks, apply)(host.network, getattr(hooks, config)(**given))
            _in_context(host)

        return install

    def timestep(host: Host) -> Callable[[], int]:
        at = [0]
        host.on_call.append(lambda call: at.__setitem__(0, int(host.denoiser.timesteps[call])))
        return lambda: at[0]

    found: list[tuple[str, Put]] = []
    for threshold in (0.1, 0.2):
        first = put("apply_first_block_cache", "FirstBlockCacheConfig", threshold=threshold)
        found.append((f"FirstBlockCache {threshold:g}", first))
    for every in (2, 3):
        seer = put(
            "apply_taylorseer_cache", "TaylorSeerCacheConfig", cache_interval=every, taylor_factors_dtype=torch.float32,
            cache_identifiers=lambda host: _CLASSED if _classed(host) else None,
        )  # fmt: skip
        found.append((f"TaylorSeer every {every}", seer))
    for threshold in (0.1, 0.2):
        mag = put(
            "apply_mag_cache", "MagCacheConfig", num_inference_steps=steps, mag_ratios=_mag_ratios, threshold=threshold
        )
        found.append((f"MagCache {threshold:g}", mag))
    found.append(("SeaCache .25", put("apply_sea_cache", "SeaCacheConfig", threshold=0.25)))
    attention = {"spatial_attention_block_skip_range": 2, "current_timestep_callback": timestep}
    pab = put("apply_pyramid_attention_broadcast", "PyramidAttentionBroadcastConfig", **attention)
    found.append(("PAB every 2", pab))
    faster = put(
        "apply_faster_cache", "FasterCacheConfig", tensor_format="BCHW",
        attention_weight_callback=lambda host: lambda module: 0.5, **attention,
    )  # fmt: skip
    found.append(("FasterCache", faster))
    return [network_way(f"diffusers {name}", "diffusers", one) for name, one in found]


def _classed(host: Host) -> bool:
    return any(name.endswith("attn1") for name, _ in host.network.named_modules())


def _in_context(host: Host) -> None:
    """Call the network inside diffusers' cache context, with what a pipeline tells there."""
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    def told(call: int) -> None:
        noise = host.denoiser.noise(call)
        sigma = None if noise is None else noise.sigma / (noise.sigma + noise.alpha)
        _set_cache_context(
            host.network, CacheContext("both", step_index=call, num_inference_steps=host.calls, sigma=sigma)
        )

    host.on_call.append(told)


def _mag_ratios(host: Host) -> list[float]:
    """Return MagCache's ratios of this model: its own calibration, on noises that no figure is measured on."""
    from diffusers.hooks import HookRegistry, MagCacheConfig, apply_mag_cache

    aside = Host(host.denoiser)
    # One step more than there are: at its last one the hook prints the ratios and forgets them.
    apply_mag_cache(aside.network, MagCacheConfig(calibrate=True, num_inference_steps=host.calls + 1))
    at = aside.begin(_CALIBRATION)
    for call in range(aside.calls):
        at = aside.denoiser.advance(at, aside.denoiser.predict(at, call), call)
    hooks = [
        m._diffusers_hook
        for m in aside.network.modules()
        if isinstance(getattr(m, "_diffusers_hook", None), HookRegistry)
    ]
    states = [h.state_manager.get_state() for one in hooks for h in one.hooks.values() if hasattr(h, "state_manager")]
    return next(list(state.calibration_ratios) for state in states if state.calibration_ratios)


def _hicache(steps: int) -> list[Way]:
    """HiCache++ as its page integrates it: the guided output is forecast at the steps between."""

    def install(every: int, backend: str) -> Install:
        @contextmanager
        def at_host(host: Host) -> Iterator[Predict]:
            package = import_module("hicache_pp")
            state = package.hicache_init(steps, interval=every, backend=backend)
            forecast = package.hicache_forecast if backend == "hermite" else package.dmd_forecast_state

            def predict(at: Trajectory, call: int) -> Tensor:
                state["step"] = call
                if package.hicache_decide(state) == "forecast":
                    guided = forecast(state)
                    return torch.cat([guided] * rows[0])
                output = host.denoiser.predict(at, call)
                guided = host.denoiser.guided(output)
                rows[0] = len(output) // len(guided)
                package.hicache_update_derivatives(state, guided)
                if backend != "hermite":
                    package.dmd_update_snapshots(state, guided)
                return output

            rows = [1]
            yield predict

        return at_host

    pairs = [(every, backend) for every in (2, 3) for backend in ("hermite", "dmd")]
    return [Way(f"hicache-pp {b} every {n}", "hicache-pp", install(n, b)) for n, b in pairs]
