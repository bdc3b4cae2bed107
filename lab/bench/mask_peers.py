"""A mask of others that is learned: a router in the manner of Learning-to-Cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ...core.calibrate.masks.costs import to_budget
from ...core.calibrate.masks.masked_model import Subject
from ...core.calibrate.masks.per_call import interleaved_pass
from ...core.calibrate.masks.settings import TrainSettings
from ...core.calibrate.masks.trainer import begin
from ...core.errors import RecipeError


def router_mask(subject: Subject, settings: TrainSettings) -> np.ndarray:
    """In the manner of Learning-to-Cache: every second call is full; of the others a router, trained as mixing weights along
    the dense run with a sparsity term, says what runs. Raises :class:`RecipeError` below the share of the full calls."""
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
    training = begin(subject, settings)
    full = np.zeros(subject.shape, dtype=bool)
    full[::2] = True
    least = subject.costs.share(full)
    if least > share:
        raise RecipeError(f"a router needs {least:.0%} of the multiply-adds for its full calls: give a larger target")
    gates = training.learner.gates
    for number in range(settings.passes):
        gates.assign(torch.where(torch.from_numpy(full), 1.0, gates.values))
        interleaved_pass(subject, training.learner, training.seeds(number))
        training.learner.done += 1
    return to_budget(np.where(full, 2.0, training.learner.scores()), share, subject.costs)
