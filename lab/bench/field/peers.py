"""The field: packages that merge tokens, skip blocks or forecast outputs, installed as their documentation says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from ....core.calibrate.denoiser import Trajectory
from ....core.errors import SkipstoneError
from ..skip_ways import deepcache
from .caches import caches
from .package import network_way
from .way import Host, Install, Predict, Way


def peers(steps: int) -> list[Way]:
    """Return all peers. Which apply to a model shows when they are installed.

    Args:
        steps: of the dense run.

    Example:
        >>> sorted({way.group for way in peers(20)})
        ['DeepCache', 'ca-tome', 'cache-dit', 'diffusers', 'hicache-pp', 'tomesd']
    """
    return [*_merging(), *_deepcache(), *caches(steps), *_hicache()]


def _blocks_of(host: Host, kind: str) -> None:
    """Raise :class:`SkipstoneError` where the network has no such part."""
    if not any(type(module).__name__ == kind for module in host.network.modules()):
        raise SkipstoneError(f"it changes {kind}, which this network does not have")


def _unet_only(host: Host) -> None:
    if not hasattr(host, "unet"):
        raise SkipstoneError("it serves U-Nets alone")


def _merging() -> list[Way]:
    """Merging of tokens at the finest resolution, without random destinations, which would make every run another one."""

    found = [network_way(f"tomesd {ratio:.0%}", "tomesd", partial(_tomesd, ratio)) for ratio in (0.25, 0.5)]
    return [*found, *(network_way(f"ca-tome {t}", "ca-tome", partial(_ca_tome, t)) for t in (0.9, 0.7))]


def _tomesd(ratio: float, host: Host) -> None:
    import tomesd

    _blocks_of(host, "BasicTransformerBlock")
    tomesd.apply_patch(host.network, ratio=ratio, max_downsample=_downsample(host), use_rand=False)


def _ca_tome(threshold: float, host: Host) -> None:
    """Pairs are searched at every third call."""
    from ca_tome.patch import apply_patch

    _blocks_of(host, "BasicTransformerBlock")
    searched = list(range(0, host.calls, 3))
    apply_patch(host.network, searched, r=threshold, max_downsample=_downsample(host), use_rand=False)
    patched = [module for module in host.network.modules() if hasattr(module, "_cache_info")]
    host.on_call.append(lambda call: [module.__dict__.update(inference_step=call) for module in patched])


def _downsample(host: Host) -> int:
    """Return how much coarser than the latent the finest tokens are, for packages that choose layers by it."""
    return int(getattr(host.network.config, "patch_size", None) or 1)


def _deepcache() -> list[Way]:
    return [network_way(f"DeepCache every {n}", "DeepCache", partial(_deepcache_on, n)) for n in (2, 3)]


def _deepcache_on(every: int, host: Host) -> None:
    if not hasattr(host, "unet"):
        raise SkipstoneError("it serves U-Nets alone")
    deepcache(every)(host.network, list(host.denoiser.timesteps))
    inner = host.network.forward
    # The package reads the timestep as the second positional argument.
    host.network.forward = lambda x, timestep, **given: inner(x, timestep.flatten()[0], **given)


def _hicache() -> list[Way]:
    """HiCache++ as its page integrates it: the guided output is forecast at the steps between."""
    pairs = [(every, backend) for every in (2, 3) for backend in ("hermite", "dmd")]
    return [Way(f"hicache-pp {b} every {n}", "hicache-pp", _forecasting(n, b)) for n, b in pairs]


def _forecasting(every: int, backend: str) -> Install:
    @contextmanager
    def install(host: Host) -> Iterator[Predict]:
        package = import_module("hicache_pp")
        state = package.hicache_init(host.calls, interval=every, backend=backend)
        forecast = package.hicache_forecast if backend == "hermite" else package.dmd_forecast_state
        rows = [1]

        def predict(at: Trajectory, call: int) -> Tensor:
            state["step"] = call
            if package.hicache_decide(state) == "forecast":
                return torch.cat([forecast(state)] * rows[0])  # guidance changes nothing where both halves are equal
            output = host.denoiser.predict(at, call)
            guided = host.denoiser.guided(output)
            rows[0] = len(output) // len(guided)
            package.hicache_update_derivatives(state, guided)
            if backend != "hermite":
                package.dmd_update_snapshots(state, guided)
            return output

        yield predict

    return install
