"""Training by exchange: runs of little worth are given up for runs that are worth more, at a fixed budget.

The mask stays binary. A pass estimates on new noise what each flip would change (:mod:`.flips`), and changes the most
promising pairs, at most one per block, where a :class:`Comparison` says so: several at once, then fewer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .comparison import Comparison
from .flips import flip_values
from .learner import Learner
from .local_search import budget
from .masked_model import Subject

_MEMORY = 0.5
Entry = tuple[int, int]


def exchange_pass(
    subject: Subject, learner: Learner, run: np.ndarray, seeds: Sequence[int], comparison: Comparison
) -> tuple[np.ndarray, float]:
    """One estimate, and exchanges by it. Returns the mask bool [T, L] and its error on the held-out noises."""
    recompute = learner.settings.checkpointing != "none"
    fresh = flip_values(subject, run, seeds, learner.shards, recompute=recompute)
    learner.adam.mean = fresh if learner.done == 0 else torch.lerp(fresh, learner.adam.mean, _MEMORY)
    pairs = gainful_pairs(run, learner.adam.mean.numpy(), subject.costs.masked)
    fits = budget(subject.costs, run, learner.settings.ceiling)
    comparison.keep(run)
    count, tries = max(1, len(pairs) // 2), learner.settings.tries
    while pairs and tries:
        candidate = exchanged(run, pairs[:count])
        tries -= 1
        better = fits(candidate) and comparison.better(candidate)
        if better:
            run = candidate
            comparison.keep(run)
        if better or count == 1:
            pairs = pairs[count:]
        count = count if better else max(1, count // 2)
    return run, comparison.error


def gainful_pairs(run: np.ndarray, values: np.ndarray, cost: np.ndarray) -> list[tuple[Entry, Entry]]:
    """(run to give up, run to gain) by falling predicted gain, each block in one pair only.

    run bool [T, L]. values [T, L]: what a run changes in the error, negative where it helps. cost [L]: of each block; worth
    is counted per cost, so that pairs of unlike blocks keep the budget on average.
    """
    worth = -values / cost
    worth[0] = np.inf
    lose = [(s, i) for s, i in _ordered(worth) if run[s, i]]
    gain = [(s, i) for s, i in _ordered(-worth) if not run[s, i]]
    pairs: list[tuple[Entry, Entry]] = []
    used: set[int] = set()
    while True:
        off = next((e for e in lose if e[1] not in used), None)
        on = next((e for e in gain if off is not None and e[1] not in used | {off[1]}), None)
        if off is None or on is None or worth[on] <= worth[off]:
            return pairs
        pairs.append((off, on))
        used |= {off[1], on[1]}


def exchanged(run: np.ndarray, pairs: Sequence[tuple[Entry, Entry]]) -> np.ndarray:
    """The mask with these pairs changed."""
    run = run.copy()
    for off, on in pairs:
        run[off], run[on] = False, True
    return run


def _ordered(values: np.ndarray) -> list[Entry]:
    """Entries by rising value."""
    rows, blocks = np.unravel_index(np.argsort(values, axis=None, kind="stable"), values.shape)
    return list(zip(rows.tolist(), blocks.tolist(), strict=True))
