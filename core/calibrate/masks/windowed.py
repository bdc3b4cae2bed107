"""Training of several calls together: the error of the latent after a window goes back through all its calls.

So a gate learns what its cache is worth to later calls. With checkpointing only latents and caches of a window are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..denoiser import Trajectory
from .gated import Caches, Row, detached
from .learner import Learner
from .losses import feature_loss
from .masked_model import Subject


def windows(calls: int, size: int, offset: int = 0) -> Iterator[range]:
    """Consecutive windows of at most `size` calls; `offset` calls in the first one (0: a full one). Size 0: one window."""
    size = size or calls
    start, end = 0, offset or size
    while start < calls:
        yield range(start, min(end, calls))
        start, end = end, end + size


def windowed_pass(subject: Subject, learner: Learner, seeds: Sequence[int]) -> float:
    """One run on new samples, one step per window. Returns the mean loss of the windows."""
    at, caches = subject.denoiser.begin(seeds), None  # type: tuple[Trajectory, Caches | None]
    size = learner.settings.window
    offset = learner.done % size if size else 0
    losses = []
    for window in windows(subject.calls, size, offset):
        goal = dense_end(subject, subject.denoiser.fork(at), window)
        rows = [learner.gates.draw(call, subject.device) for call in window]
        at, caches = masked_window(subject, at, caches, window, rows, learner.settings.checkpointing != "none")
        loss = feature_loss(at.x, goal)
        if window[-1] > 0:
            learner.step(loss, window)
        at, caches = subject.denoiser.fork(at), detached(caches)
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


@torch.no_grad()
def dense_end(subject: Subject, at: Trajectory, window: range) -> Tensor:
    """The latent after a window of dense calls."""
    for call in window:
        at = subject.denoiser.advance(at, subject.denoiser.predict(at, call), call)
    return at.x


def masked_window(
    subject: Subject, at: Trajectory, caches: Caches | None, window: range, rows: Sequence[Row], recompute: bool = True
) -> tuple[Trajectory, Caches]:
    """A window of calls under gates, with gradients to them."""
    evaluate = subject.recomputed if recompute else subject.masked
    for call, row in zip(window, rows, strict=True):
        outcome = evaluate(at, call, row, caches)
        at, caches = subject.denoiser.advance(at, outcome.output, call), outcome.caches
    assert caches is not None
    return at, caches
