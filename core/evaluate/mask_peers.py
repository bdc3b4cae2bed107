"""Masks that others would use at the same budget: intervals (FORA, DeepCache), a greedy one by feature variation, a router.

Each takes a subject and a share of the multiply-adds and returns a mask bool [T, L] that needs at most that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from ..calibrate.masks.costs import to_budget
from ..calibrate.masks.gated import Caches
from ..calibrate.masks.per_call import interleaved_pass
from ..calibrate.masks.settings import TrainSettings
from ..calibrate.masks.starts import interval_scores
from ..calibrate.masks.subject import Subject
from ..calibrate.masks.trainer import begin
from ..errors import RecipeError
from ..plan import rules

_HALVINGS = 24


def interval_mask(subject: Subject, target: float) -> np.ndarray:
    """FORA's, made to fit: as many evenly spread full calls as the budget holds, and a part of one more."""
    return to_budget(interval_scores(subject.shape, subject.costs, target), target, subject.costs)


def deepcache_mask(subject: Subject, target: float) -> np.ndarray:
    """DeepCache's interval and branch whose share is the largest within the budget. Raises :class:`RecipeError` for none."""
    branches = sorted({b.depth for b in subject.graph.blocks})[:-1] or [0]
    found = [
        rules.deepcache(subject.calls, subject.graph, every, branch)
        for every in range(1, subject.calls + 1)
        for branch in branches
    ]
    fitting = [run for run in found if subject.costs.share(run) <= target]
    if not fitting:
        raise RecipeError(f"no DeepCache interval needs as little as {target:.0%} of the multiply-adds")
    return max(fitting, key=subject.costs.share)


@torch.no_grad()
def block_changes(subject: Subject, seeds: Sequence[int]) -> np.ndarray:
    """Relative L1 change [T, L] of each block's value from call to call, along dense runs; 0 at call 0."""
    at = subject.denoiser.begin(seeds)
    changes = np.zeros(subject.shape)
    before: Caches | None = None
    for call in range(subject.calls):
        outcome = subject.dense(at, call)
        if before is not None:
            for number, (new, old) in enumerate(zip(outcome.caches, before, strict=True)):
                moved = [
                    (v - w).abs().sum() / w.abs().sum().clamp_min(1e-12)
                    for v, w in zip(new.values, old.values, strict=True)
                    if v is not None and w is not None
                ]
                changes[call, number] = float(torch.stack(moved).mean())
        at, before = subject.denoiser.advance(at, outcome.output, call), outcome.caches
    return changes


def variation_mask(subject: Subject, target: float, seeds: Sequence[int]) -> np.ndarray:
    """Greedy: a block runs when its changes since its last run add up to a threshold, which is set to meet the budget."""
    changes = block_changes(subject, seeds)
    low, high = 0.0, float(changes.sum(axis=0).max()) + 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if subject.costs.share(_due(changes, middle)) > target else (low, middle)
    return _due(changes, high)


def _due(changes: np.ndarray, threshold: float) -> np.ndarray:
    run = np.zeros(changes.shape, dtype=bool)
    run[0] = True
    since = np.zeros(changes.shape[1])
    for call in range(1, len(changes)):
        since += changes[call]
        run[call] = since > threshold
        since[run[call]] = 0.0
    return run


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
