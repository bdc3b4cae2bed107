"""The paper's training: one loss and one step per call, gradients never leave their call (arXiv 2603.19939, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..denoiser import Trajectory
from .gated import Caches, Outcome, Row, detached
from .gates import Gates
from .learner import Learner
from .losses import feature_loss
from .masked_model import Subject


def interleaved_pass(subject: Subject, learner: Learner, seeds: Sequence[int]) -> float:
    """One run on new samples: at each call a dense and a gated evaluation of the same x, and a step on that call's row.

    Caches are those of the gated run. Returns the mean feature loss.
    """
    at = subject.denoiser.begin(seeds)
    caches: Caches | None = None
    losses = []
    for call in range(subject.calls):
        at, caches, loss = _call(subject, learner, at, caches, call)
        losses.append(loss)
    return float(np.mean(losses))


def _call(
    subject: Subject, learner: Learner, at: Trajectory, caches: Caches | None, call: int
) -> tuple[Trajectory, Caches, float]:
    with torch.no_grad():
        dense = subject.dense(at, call)
    if caches is None:
        return subject.denoiser.advance(at, dense.output, call), dense.caches, 0.0
    loss, masked = update(subject, learner, at, caches, call, dense.end)
    leads = masked if learner.settings.advance == "student" else dense
    return subject.denoiser.advance(at, leads.output.detach(), call), detached(masked.caches), loss


def update(
    subject: Subject, learner: Learner, at: Trajectory, caches: Caches, call: int, end: torch.Tensor
) -> tuple[float, Outcome]:
    """One step on row `call`. end: the dense run's feature. Returns the feature loss and the gated call."""
    masked = subject.masked(at, call, learner.gates.draw(call, subject.device), caches)
    loss = feature_loss(masked.end, end)
    learner.step(loss, [call])
    return float(loss.detach()), masked


def sequential_pass(subject: Subject, learner: Learner, pool: Sequence[Sequence[int]]) -> float:
    """Call by call: `updates` steps on a row over a pool of batches, then the row is settled and the pool moves on.

    Later rows see the caches that the settled rows leave. Returns the mean feature loss.
    """
    states: list[tuple[Trajectory, Caches | None]] = [(subject.denoiser.begin(seeds), None) for seeds in pool]
    losses = []
    for call in range(subject.calls):
        if call:
            losses += _settle(subject, learner, states, call)
        states = [_moved(subject, learner.gates, at, caches, call) for at, caches in states]
    return float(np.mean(losses))


def _settle(
    subject: Subject, learner: Learner, states: Sequence[tuple[Trajectory, Caches | None]], call: int
) -> list[float]:
    with torch.no_grad():
        ends = [subject.dense(at, call).end for at, _ in states]
    losses = []
    for number in range(learner.settings.updates):
        which = number % len(states)
        at, caches = states[which]
        assert caches is not None
        losses.append(update(subject, learner, at, caches, call, ends[which])[0])
    return losses


@torch.no_grad()
def _moved(
    subject: Subject, gates: Gates, at: Trajectory, caches: Caches | None, call: int
) -> tuple[Trajectory, Caches]:
    runs = gates.rows[call].detach().numpy() > 0.5
    outcome = subject.masked(at, call, Row(runs), caches)
    return subject.denoiser.advance(at, outcome.output, call), outcome.caches
