"""Published rules without a package for these models, by their formulas: forecasters, gates and DPCache's paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from ....core.calibrate.profiling import profile
from ....core.forecast.profile import Profile
from ....core.forecast.shortest_path import best_keys, one_call_costs
from ....core.recipe.call_skip import CallSkip
from ....pipelines.denoiser import PipelineDenoiser
from ..forecasters import PEERS, gated, spectrum
from .way import Host, Install, Predict, Way, by_recipe

PUBLISHED = "published"
_SPEEDUPS = (2.0, 3.0)
_GATES = (("EasyCache", (0.1, 0.2, 0.3)), ("SeaCache", (0.15, 0.3, 0.6)))
_CALIBRATION = range(20_000, 20_004)
"""Seeds on which DPCache measures its costs."""


def published(steps: int) -> Iterator[Way]:
    """Return the published rules at half and a third of the calls; gates where their thresholds lead.

    Args:
        steps: of the dense run.

    Example:
        >>> [way.name for way in published(20)][:2]
        ['TaylorSeer, order 2, 2x', 'HiCache, 2x']
    """
    for speedup in _SPEEDUPS:
        calls = max(2, round(steps / speedup))
        for name, settings in PEERS.items():
            if name != "repeat the last":
                yield Way(f"{name}, {speedup:g}x", PUBLISHED, by_recipe(CallSkip(calls=calls, **settings)))
        yield Way(f"Spectrum, {speedup:g}x", PUBLISHED, by_recipe(spectrum(steps, calls)))
        yield Way(f"DPCache, {speedup:g}x", PUBLISHED, _dpcache(calls))
    for name, thresholds in _GATES:
        for threshold in thresholds:
            yield Way(f"{name} {threshold:g}", PUBLISHED, by_recipe(gated(name.lower(), threshold)))


def _dpcache(calls: int) -> Install:
    """DPCache (arXiv 2602.22654): the keys of the least sum of forecast errors, measured on dense runs; Taylor between them."""

    @contextmanager
    def install(host: Host) -> Iterator[Predict]:
        costs = one_call_costs(_measured(host.source), "raw", "line")
        keys = best_keys(costs, calls)
        with by_recipe(CallSkip(keys=keys, predictor="line", space="raw"))(host) as predict:
            yield predict

    return install


@cache
def _measured(denoiser: PipelineDenoiser) -> Profile:
    return profile(denoiser, _CALIBRATION)
