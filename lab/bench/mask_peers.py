"""A learned mask of another paper: a router in the manner of Learning-to-Cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ...core.calibrate.masks.costs import to_budget
from ...core.calibrate.masks.masked_model import MaskedModel
from ...core.calibrate.masks.per_call import Interleaved
from ...core.calibrate.masks.settings import TrainSettings
from ...core.calibrate.masks.shards import Shards
from ...core.errors import RecipeError


def router_mask(model: MaskedModel, settings: TrainSettings) -> np.ndarray:
    """A mask in the manner of Learning-to-Cache (arXiv 2406.01733).

    Every second call is full; in the others a router, trained as mixing weights along the dense run with a sparsity term,
    chooses what runs.

    Args:
        model: to train on.
        settings: target, passes, batch and seed.

    Raises :class:`RecipeError` for a target below the share of the full calls.

    Example:
        >>> from types import SimpleNamespace
        >>> costly = SimpleNamespace(shape=(4, 2), costs=SimpleNamespace(share=lambda run: 0.5))
        >>> router_mask(costly, TrainSettings(target=0.4))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: a router needs 50% of the multiply-adds for its full calls: give a larger target
    """
    share = settings.share
    settings = dataclasses.replace(
        settings,
        form="interleaved",
        sampling="mean",
        control="fixed",
        advance="teacher",
        start="uniform",
        forecast=False,
    )
    full = np.zeros(model.shape, dtype=bool)
    full[::2] = True
    least = model.costs.share(full)
    if least > share:
        raise RecipeError(f"a router needs {least:.0%} of the multiply-adds for its full calls: give a larger target")
    strategy = Interleaved(model, settings, Shards())
    learner = strategy.learner
    for _ in range(settings.passes):
        learner.gates.assign(torch.where(torch.from_numpy(full), 1.0, learner.gates.values))
        strategy.step_all()
        learner.done += 1
    return to_budget(np.where(full, 2.0, learner.scores()), share, model.costs)
