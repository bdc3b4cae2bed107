"""Dynamics-aware token pruning (DaTo, arXiv 2501.00375): which tokens stand for themselves, and which for others.

Every cell has one base token, chosen by how much the network's output has changed there. The tokens most similar to
their base are pruned. Everything is counted on the host, so that nothing waits for the device.
"""

from __future__ import annotations

from math import floor
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .grid import Grid, Partition, cells_of
from .maps import Pairs, select_pairs
from .matching import best_pairs, most_similar, normalised, taken

_SLACK = 1e-9
"""What a product of tokens and ratio may fall short of a whole number by rounding."""


def prune_count(tokens: int, ratio: float) -> int:
    """How many of a layer's tokens are pruned: floor(tokens * ratio)."""
    return floor(tokens * ratio + _SLACK)


def unit_deviation(dynamics: Tensor) -> Tensor:
    """dynamics [B, H, W], each sample divided by its standard deviation, so that its weight against noise is the same
    at any noise level."""
    return dynamics / dynamics.std(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def pooled(dynamics: Tensor, grid: Grid) -> Tensor:
    """Dynamics of the latent's positions [B, H, W] as means over a layer's tokens [B, h, w]."""
    if grid.downsample == 1:
        return dynamics
    side = grid.downsample
    return F.avg_pool2d(dynamics.unsqueeze(1), side, ceil_mode=True).squeeze(1)


def base_offsets(score: Tensor, grid: Grid, stride: tuple[int, int]) -> Tensor:
    """score [B, h, w] -> [B, cells]: place of each whole cell's best token inside it, row by row; of equals the first."""
    members = cells_of(grid, stride, score.device).members
    return score.flatten(1).index_select(1, members.flatten()).view(-1, *members.shape).argmax(dim=2)


def prune_pairs(
    metric: Tensor,
    partition: Partition,
    count: int,
    matching: Literal["dense", "local"] = "dense",
    recover_from: Literal["base", "kept"] = "base",
) -> Pairs:
    """Prune each sample's `count` tokens that are most similar to their nearest base; a base is never pruned.

    metric [B, N, C]: the block's raw input, compared by cosine. recover_from: what stands for a pruned token, its nearest
    base, or the nearest token of all that are kept.
    """
    score, best = best_pairs(metric, partition, matching)
    pairs = select_pairs(score, best, partition, (count,) * len(metric), "keep")
    return pairs if recover_from == "base" or not count else _from_kept(metric, pairs, count)


def _from_kept(metric: Tensor, pairs: Pairs, count: int) -> Pairs:
    """The same tokens pruned, each with the most similar kept token for partner."""
    unit = normalised(metric)
    kept = pairs.partner == torch.arange(pairs.partner.shape[1], device=metric.device)
    order = kept.to(torch.uint8).argsort(dim=1, stable=True)
    gone, stay = order[:, :count], order[:, count:]
    nearest = most_similar(taken(unit, gone), taken(unit, stay))[1]
    return Pairs(pairs.partner.scatter(1, gone, stay.gather(1, nearest)), pairs.merged, "keep")
