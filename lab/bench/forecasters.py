"""Published forecasters and rules by their formulas, as settings of call skipping: on the network's output, as published."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.plan.call_plan import growing_keys
from ...core.recipe.call_skip import CallSkip

PEERS: dict[str, dict[str, Any]] = {
    "repeat the last": {"predictor": "hold", "space": "raw"},
    "TaylorSeer, order 2": {"predictor": "taylorseer", "space": "raw"},
    "HiCache": {"predictor": "hermite", "space": "raw"},
    "FoCa": {"predictor": "foca", "space": "raw"},
}
"""Published forecasters at equal calls, evenly spread, on the network's output as they are published."""


def spectrum(steps: int, calls: int) -> CallSkip:
    """Return Spectrum with its growing windows.

    Args:
        steps: of the run.
        calls: how many of them run.

    Example:
        >>> spectrum(20, 10).predictor
        'spectrum'
    """
    return CallSkip(keys=_spectrum_keys(steps, calls), predictor="spectrum", space="raw")


def gated(rule: str, threshold: float) -> CallSkip:
    """Return EasyCache or SeaCache, which decide during the run and repeat the last output.

    Args:
        rule: "easycache" or "seacache".
        threshold: change of the input that may add up.

    Example:
        >>> gated("easycache", 0.2).gated
        True
    """
    return CallSkip(rule=rule, threshold=threshold, predictor="hold", space="raw")  # type: ignore[arg-type]


def _spectrum_keys(steps: int, calls: int) -> tuple[int, ...]:
    """Return Spectrum's growing windows after its warm-up of 5 steps, shortened where the calls do not suffice."""
    found = [
        growing_keys(steps, warmup, tail=0, growth=growth)
        for warmup in range(min(5, calls - 1), 0, -1)
        for growth in np.arange(0, 3.01, 0.05)
    ]
    return next((keys for keys in found if len(keys) == calls), found[0])
