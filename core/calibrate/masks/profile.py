"""How much the network's end feature changes from call to call (Eq. 9), along its own dense runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .losses import variation
from .masked_model import MaskedModel


@torch.no_grad()
def profile(model: MaskedModel, seeds: Sequence[int]) -> Tensor:
    """Variation v [T], infinite at call 0; the mean over the samples.

    Args:
        model: to measure on.
        seeds: of the samples.

    Example:
        >>> v = profile(model, seeds=[0, 1])
        >>> v[0].item(), bool((v[1:] > 0).all())
        (inf, True)
    """
    changes = (variation(now.end, before.end) for before, now in pairwise(model.dense_run(seeds)))
    return torch.tensor([torch.inf, *map(float, changes)])
