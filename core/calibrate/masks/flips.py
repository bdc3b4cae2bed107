"""What each flip of a mask would change: the final error with a block run at a call, minus that with its value reused.

Along the sampler's linearisation the error is quadratic in each gate, so gradient and curvature give the whole difference:
L(1) - L(0) = g + (1 - 2 b) h, with b the present gate, g its straight-through gradient and h the squared norm of what the
gate adds to the final latent. h needs no second derivative: for random signs u on the latent, the square of the gate's
gradient of <u, x> has the mean h.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .gates import Gates
from .losses import feature_loss
from .masked_model import MaskedModel, Place
from .shards import Shards
from .windowed import dense_end, masked_window


def flip_values(
    model: MaskedModel, run: np.ndarray, seeds: Sequence[int], shards: Shards, draws: int = 1, recompute: bool = True
) -> Tensor:
    """Estimate L(run) - L(reuse) [T, L] of each entry of a mask, the others unchanged; a run is worth it where this is below 0.

    L is the mean relative squared error of the final latents.

    Args:
        model: to estimate on.
        run: mask bool [T, L].
        seeds: this process's samples; their random signs depend on the seeds alone.
        shards: this process's part.
        draws: of random signs per sample.
        recompute: keep no activations; the backward pass evaluates each call again.

    Example:
        >>> values = flip_values(model, np.ones(model.shape, dtype=bool), [0, 1], Shards(), recompute=False)
        >>> bool((values[0] == 0).all() and (values[1:] < 0).all())  # nothing in a dense mask is idle
        True
    """
    whole = range(model.calls)
    start = model.denoiser.begin(seeds)
    goal = dense_end(model, model.denoiser.fork(start), whole)
    gates = Gates(torch.from_numpy(run).float())
    rows = [gates.fixed(call, run[call], model.device) for call in whole]
    at, _ = masked_window(model, Place(start), whole, rows, recompute)
    slope = shards.mean(_gradients(feature_loss(at.x, goal), gates, keep=True))
    size = goal.flatten(1).norm(dim=1).view(-1, *[1] * (goal.ndim - 1))
    bend = torch.zeros_like(slope)
    for draw in range(draws):
        signed = (_signs(at.x, seeds, draw) * at.x / size).sum()
        whole_batch = shards.count * shards.mean(_gradients(signed, gates, keep=draw < draws - 1))
        bend += whole_batch.square() / (len(seeds) * shards.count * draws)
    return slope + (1 - 2 * torch.from_numpy(run).float()) * bend


def _signs(x: Tensor, seeds: Sequence[int], draw: int) -> Tensor:
    """+-1 in the shape of x [B, ...], each sample's from its seed."""
    generators = [torch.Generator().manual_seed((1 << 30) + seed + (draw << 24)) for seed in seeds]
    bits = torch.stack([torch.randint(0, 2, x.shape[1:], generator=g) for g in generators])
    return bits.to(x) * 2 - 1


def _gradients(of: Tensor, gates: Gates, keep: bool) -> Tensor:
    later = torch.autograd.grad(of, gates.rows[1:], retain_graph=keep)
    return torch.cat([torch.zeros_like(gates.rows[0])[None].detach(), torch.stack(later)])
