"""Training of several calls together: the error of the latent after a window goes back through all its calls.

So a gate learns what its cache is worth to later calls. With checkpointing only latents and caches of a window are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..denoiser import Trajectory
from .gated import Caches, CallGates, detached
from .losses import feature_loss
from .masked_model import MaskedModel, Place
from .strategy import GradientStrategy


def windows(calls: int, size: int, offset: int = 0) -> Iterator[range]:
    """Consecutive windows of calls.

    Args:
        calls: number of calls of the run.
        size: most calls of a window; 0 for one window.
        offset: calls in the first window; 0 for a full one.

    Example:
        >>> list(windows(5, 2)), list(windows(5, 2, offset=1))
        ([range(0, 2), range(2, 4), range(4, 5)], [range(0, 1), range(1, 3), range(3, 5)])
    """
    size = size or calls
    start, end = 0, offset or size
    while start < calls:
        yield range(start, min(end, calls))
        start, end = end, end + size


@torch.no_grad()
def dense_end(model: MaskedModel, at: Trajectory, window: range) -> Tensor:
    """The latent [B, ...] after a window of dense calls.

    Args:
        model: to run.
        at: before the window.
        window: numbers of the calls.

    Example:
        >>> bool((dense_end(model, model.denoiser.begin([0]), range(4)) == model.rollout([0])).all())
        True
    """
    for call in window:
        at = model.denoiser.advance(at, model.denoiser.predict(at, call), call)
    return at.x


def masked_window(
    model: MaskedModel, place: Place, window: range, gates: Sequence[CallGates], recompute: bool = True
) -> tuple[Trajectory, Caches]:
    """Run a window of calls under gates, with gradients to them.

    Args:
        model: to run.
        place: before the window.
        window: numbers of the calls.
        gates: of each call.
        recompute: keep no activations.

    Returns the trajectory after the window, and the caches of its last call.

    Example:
        >>> start = Place(model.denoiser.begin([0]))
        >>> at, caches = masked_window(model, start, range(2), [CallGates(np.ones(4, dtype=bool))] * 2, recompute=False)
        >>> bool((at.x == dense_end(model, start.at, range(2))).all())
        True
    """
    evaluate = model.recomputed if recompute else model.masked
    at, caches = place
    for call, row in zip(window, gates, strict=True):
        outcome = evaluate(at, call, row, caches)
        at, caches = model.denoiser.advance(at, outcome.output, call), outcome.caches
    assert caches is not None
    return at, caches


class Windowed(GradientStrategy):
    """One run on new samples, with one step per window of calls.

    Args:
        model: to train on.
        settings: of the training.
        shards: this process's part.

    Example:
        >>> from skipstone.core.calibrate.masks.settings import TrainSettings
        >>> from skipstone.core.calibrate.masks.shards import Shards
        >>> strategy = Windowed(model, TrainSettings(form="windowed", target=0.5, checkpointing="none"), Shards())
        >>> strategy.run_pass() > 0
        True
    """

    reads = GradientStrategy.reads | {"window", "checkpointing"}

    def step_all(self) -> float:
        """Step on the rows of each window. Returns the mean loss of the windows."""
        model, size = self.model, self.settings.window
        place, losses = Place(model.denoiser.begin(self.seeds.batch(self.done))), []
        for window in windows(model.calls, size, self.done % size if size else 0):
            goal = dense_end(model, model.denoiser.fork(place.at), window)
            gates = [self.learner.gates.draw(call, model.device) for call in window]
            at, caches = masked_window(model, place, window, gates, self.settings.checkpointing != "none")
            loss = feature_loss(at.x, goal)
            if window[-1] > 0:
                self.learner.step(loss, window)
            place = Place(model.denoiser.fork(at), detached(caches))
            losses.append(float(loss.detach()))
        return float(np.mean(losses))
