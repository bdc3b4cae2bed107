"""The loss terms of timestep-aware block masking (arXiv 2603.19939), Eq. 5 to 11."""

from __future__ import annotations

import torch
from torch import Tensor


def feature_loss(masked: Tensor, dense: Tensor) -> Tensor:
    """Eq. 5: squared distance over the squared size of the dense feature, both [B, ...]; per sample, then the mean."""
    dims = tuple(range(1, dense.ndim))
    distance = (masked - dense).float().square().sum(dims)
    return (distance / dense.float().square().sum(dims).clamp_min(1e-12)).mean()


def sparsity(p: Tensor, cost: Tensor) -> Tensor:
    """Eq. 6: mean of p [L], weighted by `cost` [L] (ones for the paper's form)."""
    return (p * cost).sum() / cost.sum()


def bimodal(p: Tensor) -> Tensor:
    """Eq. 7: mean of p (1 - p), which pushes p [L] to 0 or 1."""
    return (p * (1 - p)).mean()


def variation(ends: Tensor, before: Tensor) -> Tensor:
    """Eq. 9: relative L1 change of a feature [B, ...] from one call to the next; the mean over the samples."""
    dims = tuple(range(1, ends.ndim))
    change = (ends - before).float().abs().sum(dims) / before.float().abs().sum(dims).clamp_min(1e-12)
    return change.mean()


def loss_weights(v: Tensor, low: float, high: float, threshold: float | None = None) -> Tensor:
    """Eq. 10: per call, `low` where the features vary more than the threshold, else `high`.

    v [T]: variation, infinite at call 0. threshold: the median over the later calls by default.
    """
    later = v[1:]
    if threshold is None:
        threshold = float(later.median()) if len(later) else 0.0
    return torch.where(v > threshold, low, high)
