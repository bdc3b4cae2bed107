"""The loss terms of timestep-aware block masking (arXiv 2603.19939), Eq. 5 to 11."""

from __future__ import annotations

import torch
from torch import Tensor


def feature_loss(masked: Tensor, dense: Tensor) -> Tensor:
    """Eq. 5: squared distance over the squared norm of the dense feature, per sample; the mean over the samples.

    Args:
        masked: feature [B, ...].
        dense: feature of the same shape.

    Example:
        >>> float(feature_loss(torch.tensor([[3.0, 3.0]]), torch.tensor([[3.0, 4.0]])))
        0.03999999910593033
    """
    dims = tuple(range(1, dense.ndim))
    distance = (masked - dense).float().square().sum(dims)
    return (distance / dense.float().square().sum(dims).clamp_min(1e-12)).mean()


def sparsity(p: Tensor, cost: Tensor) -> Tensor:
    """Eq. 6: weighted mean of the probabilities.

    Args:
        p: [L].
        cost: weights [L]; ones for the paper's form.

    Example:
        >>> float(sparsity(torch.tensor([1.0, 0.0]), cost=torch.tensor([3.0, 1.0])))
        0.75
    """
    return (p * cost).sum() / cost.sum()


def bimodal(p: Tensor) -> Tensor:
    """Eq. 7: mean of p (1 - p) over p [L], which is least at 0 and 1.

    Example:
        >>> float(bimodal(torch.tensor([0.5, 1.0])))
        0.125
    """
    return (p * (1 - p)).mean()


def variation(ends: Tensor, before: Tensor) -> Tensor:
    """Eq. 9: relative L1 change of a feature from one call to the next; the mean over the samples.

    Args:
        ends: feature [B, ...].
        before: of the call before.

    Example:
        >>> float(variation(torch.tensor([[1.0, 3.0]]), before=torch.tensor([[1.0, 1.0]])))
        1.0
    """
    dims = tuple(range(1, ends.ndim))
    change = (ends - before).float().abs().sum(dims) / before.float().abs().sum(dims).clamp_min(1e-12)
    return change.mean()


def loss_weights(v: Tensor, low: float, high: float, threshold: float | None = None) -> Tensor:
    """Eq. 10: per call, `low` where the features vary more than the threshold, otherwise `high`.

    Args:
        v: variation [T], infinite at call 0.
        low: weight of calls with much variation.
        high: weight of the others.
        threshold: the median over the later calls if None.

    Example:
        >>> loss_weights(torch.tensor([torch.inf, 0.3, 0.2, 0.1]), low=0.5, high=1.5).tolist()
        [0.5, 0.5, 1.5, 1.5]
    """
    later = v[1:]
    if threshold is None:
        threshold = float(later.median()) if len(later) else 0.0
    return torch.where(v > threshold, low, high)
