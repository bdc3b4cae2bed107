"""How much the network's end feature moves from call to call (Eq. 9), along its own dense runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .losses import variation
from .masked_model import MaskedModel


@torch.no_grad()
def profile(model: MaskedModel, seeds: Sequence[int]) -> Tensor:
    """v [T], infinite at call 0; mean over the samples."""
    at = model.denoiser.begin(seeds)
    v = torch.full((model.calls,), torch.inf)
    before: Tensor | None = None
    for call in range(model.calls):
        outcome = model.dense(at, call)
        if before is not None:
            v[call] = float(variation(outcome.end, before))
        at, before = model.denoiser.advance(at, outcome.output, call), outcome.end
    return v
