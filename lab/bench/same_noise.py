"""Fewer steps of a sampler that adds noise, comparable to a run of more steps: with the noise of that run.

With noise of its own, a run of fewer steps gives another picture. Here each of its steps adds the noises of the steps that it
takes the place of, weighted by what remains of them, and of unit variance.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...pipelines.denoiser import PipelineDenoiser


@contextmanager
def noise_of(many: PipelineDenoiser, few: PipelineDenoiser, seeds: Sequence[int]) -> Iterator[None]:
    """Let a run of fewer steps add the noise of a run of more.

    Args:
        many: the run whose noise is used.
        few: the run of fewer steps, of the same sampler.
        seeds: of the samples that are drawn meanwhile.

    Example:
        >>> with noise_of(many, few, [0, 1]):  # doctest: +SKIP
        ...     dense(few, [0, 1])
    """
    module = sys.modules[many.scheduler_module]
    drawn = getattr(module, "randn_tensor", None)
    if drawn is None or not many.horizon.stochastic:  # DPM++ SDE: a seed is the same Brownian path for any steps
        yield
        return
    noises = iter(noises_for(many, few, seeds))
    module.randn_tensor = lambda *args, **kwargs: next(noises)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.randn_tensor = drawn  # type: ignore[attr-defined]


def noises_for(many: PipelineDenoiser, few: PipelineDenoiser, seeds: Sequence[int]) -> list[Tensor]:
    """Return the noise [B, ...] of each step of the shorter run: the longer run's, summed.

    Args:
        many: the run whose noise is used.
        few: the run of fewer steps, of the same sampler.
        seeds: of the samples.

    Example:
        >>> len(noises_for(many, few, [0, 1]))  # doctest: +SKIP
        10
    """
    return _summed(_noises(many, seeds), spans(_levels(many), _levels(few)), _weights(many))


def spans(many: Sequence[float], few: Sequence[float]) -> list[list[int]]:
    """Return, for each step of the shorter run, the steps of the longer one whose middle lies in it.

    Args:
        many: timestep at which each step of the longer run begins, falling.
        few: the same of the shorter run.

    Example:
        >>> spans([900, 700, 500, 300, 100], [900, 500, 200])
        [[0, 1], [2], [3, 4]]
    """
    middles = [(begin + end) / 2 for begin, end in pairwise([*many, 0.0])]
    return [
        [i for i, t in enumerate(middles) if (end < t or j == len(few) - 1) and (t <= begin or j == 0)]
        for j, (begin, end) in enumerate(pairwise([*few, 0.0]))
    ]


def _levels(denoiser: PipelineDenoiser) -> list[float]:
    return list(denoiser.timesteps[:: denoiser.horizon.stages])


def _noises(many: PipelineDenoiser, seeds: Sequence[int]) -> list[Tensor]:
    """Return the noise [B, ...] that each step of a run adds."""
    at: Any = many.begin(seeds)
    return [
        torch.cat([torch.randn((1, *at.x.shape[1:]), generator=g) for g in at.history.generators]).to(at.x)
        for _ in _levels(many)
    ]


def _weights(many: PipelineDenoiser) -> list[float]:
    """Return what the noise of each step counts: as it remains in the latent while the picture stays the same.

    There the noise is a Brownian path in the signal-to-noise ratio. The last step's is not used.
    """
    stages = many.horizon.stages
    levels = [many.noise(call) for call in range(0, len(many.timesteps), stages)]
    ratios = [(level.alpha / level.sigma) ** 2 for level in levels if level is not None]
    return [(after - before) ** 0.5 for before, after in pairwise(ratios)] + [0.0]


def _summed(noises: Sequence[Tensor], parts: Sequence[Sequence[int]], weights: Sequence[float]) -> list[Tensor]:
    found = []
    for part in parts:
        scale = sum(weights[i] ** 2 for i in part) ** 0.5
        kept = [noises[i] * (weights[i] / scale if scale else 1.0) for i in part]
        found.append(torch.stack(kept).sum(dim=0))
    return found
