"""What the lengths of a run's steps, and the noise at its end, say about the steps that should run."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from ..forecast.names import CallPredictorName
from .run import Horizon

_CLEAN = 0.01
"""Share of the training range below which a timestep has almost no noise."""

_SHORT = 0.25
"""Share of the longest step below which the last one is short."""

_LONGER = 1.1
"""Ratio of the last step's length to the first one's from which on steps grow."""


def decisive_step(horizon: Horizon, steps: int, tail: int) -> int | None:
    """Return a step before the last ones that runs, too; None where they suffice.

    It decides the fine detail where the last step sees almost no noise, and what a sampler continues that continues outputs:
    the last step that sees noise. Where steps grow towards the end, as those of flow models do, the last one decides alone.

    Args:
        horizon: the calls of the run.
        steps: number of steps of the run.
        tail: last steps that all run.

    Example:
        >>> decisive_step(Horizon((900.0, 600.0, 300.0, 5.0)), steps=4, tail=1)
        2
    """
    known = (horizon.timesteps or ())[:: horizon.stages]
    clean = bool(known) and known[-1] <= _CLEAN * horizon.train_steps
    if not tail or not (clean or (horizon.multistep and not _grow(known))):
        return None
    seen = [step for step, t in enumerate(known[: steps - tail]) if t > _CLEAN * horizon.train_steps]
    found = seen[-1] if seen else steps - tail - 1
    return found if found > 0 else None


def spread_times(horizon: Horizon) -> tuple[float, ...]:
    """Return the timesteps in which even keys are spread, one per step; () for the steps themselves.

    Where a multistep sampler's steps become short at little noise (Karras' spacing), even steps leave too few keys where they
    are long, and the sampler continues what is forecast there. The steps of flow models are longest at little noise.

    Args:
        horizon: the calls of the run.

    Example:
        >>> spread_times(Horizon((900.0, 500.0, 200.0, 150.0), multistep=True))
        (900.0, 500.0, 200.0, 150.0)
    """
    times = (horizon.timesteps or ())[:: horizon.stages]
    lengths = -np.diff(np.asarray(times, dtype=float))
    short = len(lengths) > 1 and bool(lengths[-1] < _SHORT * lengths.max())
    return times if short and horizon.multistep else ()


def slopes(levels: Sequence[float]) -> tuple[float, ...]:
    """Return how far each step of DPM++ 2M continues the last change of the picture: it goes along
    `x0_k + slope_k (x0_k - x0_(k-1))` (DPM-Solver++, arXiv 2211.01095, with two steps and midpoints).

    Args:
        levels: those in whose logarithm the sampler steps, one per step and the one that is reached: sigma / alpha, or sigma of
            flow models in samplers of k-diffusion.

    Example:
        >>> [round(slope, 3) for slope in slopes((8.0, 4.0, 1.0, 0.0))]  # 0 at the first step, and at one to the picture itself
        [0.0, 1.0, 0.0]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = -np.diff(np.log(np.asarray(levels, dtype=float)))
        found = [0.0, *(lengths[1:] / lengths[:-1] / 2).tolist()]
    return tuple(slope if isfinite(slope) else 0.0 for slope in found)


def gap_comes_early(times: Sequence[float], predictor: CallPredictorName) -> bool:
    """Return whether a single longer gap between even keys comes earlier than elsewhere: where forecasts are corrected, which
    repairs less after a long gap, and steps grow, so that a late one is a long way.

    Args:
        times: timestep of each step.
        predictor: how outputs are forecast.

    Example:
        >>> gap_comes_early((999.0, 900.0, 700.0, 400.0), "corrected"), gap_comes_early((999.0, 666.0, 333.0), "corrected")
        (True, False)
    """
    return predictor == "corrected" and _grow(times)


def _grow(times: Sequence[float]) -> bool:
    """Return whether steps are longer at little noise than at much."""
    lengths = -np.diff(np.asarray(times, dtype=float))
    return len(lengths) > 1 and bool(lengths[-1] > _LONGER * lengths[0])
