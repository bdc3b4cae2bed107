"""Dynamics-aware token pruning (DaTo, arXiv 2501.00375): the tokens that a layer leaves out, and what replaces them.

Every cell has one base token, the one where the network's output changes most. The tokens that are most similar to
their base are pruned. Counts are computed on the host, so that nothing waits for the device.
"""

from __future__ import annotations

from math import floor
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .grid import Grid, Partition, cells_of, positions
from .maps import Pairs, select_pairs
from .matching import best_pairs, most_similar, normalised, tokens_at

_SLACK = 1e-9
"""By how much rounding may put a product of tokens and ratio below a whole number."""


def prune_count(tokens: int, ratio: float) -> int:
    """How many of a layer's tokens are pruned, floor(tokens * ratio).

    Args:
        tokens: number of tokens N.
        ratio: share to prune, in [0, 1).

    Example:
        >>> prune_count(4096, 0.4)
        1638
    """
    return floor(tokens * ratio + _SLACK)


def unit_deviation(dynamics: Tensor) -> Tensor:
    """Each sample's dynamics [B, H, W] divided by their standard deviation: they weigh the same against noise at any step.

    Example:
        >>> unit_deviation(torch.tensor([[[0.0, 0.0], [0.0, 8.0]]])).std(dim=(1, 2)).tolist()
        [1.0]
    """
    return dynamics / dynamics.std(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def pooled(dynamics: Tensor, grid: Grid) -> Tensor:
    """Dynamics of a layer's tokens [B, h, w]: the means over the latent positions that each token covers.

    Args:
        dynamics: of the latent's positions [B, H, W].
        grid: the layer's grid, h by w.

    Example:
        >>> pooled(torch.tensor([[[1.0, 3.0], [5.0, 7.0]]]), Grid(1, 1, downsample=2)).tolist()
        [[[4.0]]]
    """
    if grid.downsample == 1:
        return dynamics
    side = grid.downsample
    return F.avg_pool2d(dynamics.unsqueeze(1), side, ceil_mode=True).squeeze(1)


def base_offsets(score: Tensor, grid: Grid, stride: tuple[int, int]) -> Tensor:
    """Index of each cell's best token inside the cell, row by row [B, cells]; the first of equal ones.

    Args:
        score: of each token [B, h, w]; the highest is best.
        grid: the layer's grid.
        stride: height and width of a cell in tokens.

    Raises :class:`Decline` when the grid has no whole cell.

    Example:
        >>> base_offsets(torch.tensor([[[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]]]), Grid(2, 4, 1), (2, 2)).tolist()
        [[1, 3]]
    """
    members = cells_of(grid, stride, score.device).members
    return score.flatten(1).index_select(1, members.flatten()).view(-1, *members.shape).argmax(dim=2)


def prune_pairs(
    metric: Tensor,
    partition: Partition,
    count: int,
    matching: Literal["dense", "local"] = "dense",
    recover_from: Literal["base", "kept"] = "base",
) -> Pairs:
    """Prune the tokens of each sample that are most similar to a base. A base is never pruned.

    Args:
        metric: the block's raw input [B, N, C], compared by cosine.
        partition: its destinations are the bases.
        count: tokens to prune in each sample.
        matching: "dense", or "local" for the bases of the token's own tile alone.
        recover_from: what replaces a pruned token in the output, the nearest "base" (the paper) or the nearest "kept" token
            (the released code).

    Example:
        >>> from .grid import top_left
        >>> tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]]])
        >>> prune_pairs(tokens, top_left(Grid(1, 4, 1), (1, 2), torch.device("cpu")), 1).partner.tolist()
        [[0, 0, 2, 3]]
    """
    score, best = best_pairs(metric, partition, matching)
    pairs = select_pairs(score, best, partition, (count,) * len(metric), "keep")
    return pairs if recover_from == "base" or not count else _from_kept(metric, pairs, count)


def _from_kept(metric: Tensor, pairs: Pairs, count: int) -> Pairs:
    """The same tokens pruned, each with the most similar kept token as its partner."""
    unit = normalised(metric)
    # A stable sort of "kept" puts the `count` pruned tokens of each sample first, without counting them on the device.
    kept = pairs.partner == positions(pairs.partner.shape[1], metric.device)
    order = kept.to(torch.uint8).argsort(dim=1, stable=True)
    gone, stay = order[:, :count], order[:, count:]
    nearest = most_similar(tokens_at(unit, gone), tokens_at(unit, stay))[1]
    return Pairs(pairs.partner.scatter(1, gone, stay.gather(1, nearest)), pairs.merged, "keep")
