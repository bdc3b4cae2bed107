"""Token grids for tests: partitions and tokens of a given side."""

from __future__ import annotations

import tiny
import torch
from torch import Tensor

from skipstone.core.tokens.grid import Grid, Partition, drawn, top_left

CPU = torch.device("cpu")


def partition_of(side: tuple[int, int], stride: tuple[int, int], seed: int | None = None) -> Partition:
    """Top-left, or drawn with a seed."""
    grid = Grid(*side, 1)
    if seed is None:
        return top_left(grid, stride, CPU)
    return drawn(grid, stride, torch.Generator().manual_seed(seed), CPU)


def tokens(side: tuple[int, int], batch: int = 2, channels: int = 5, seed: int = 0) -> Tensor:
    """[B, N, C], neighbours alike, each sample with another amount of noise."""
    return tiny.smooth(batch, channels, *side, seed=seed).flatten(2).transpose(1, 2).contiguous()
