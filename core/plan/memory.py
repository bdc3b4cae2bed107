"""How much the cached values of a plan take, and a plan that fits a budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .liveness import State


def peak_bytes(states: np.ndarray, kept: np.ndarray, sizes: np.ndarray) -> int:
    """Most bytes held at any moment of a run: states int8 [T, L], kept bool [T, L], sizes int64 [L] of one value each.

    At a call's beginning what it, or a later one, reuses is held; then, block by block, a value that is kept comes and one that was
    read for the last time goes.
    """
    most = held = 0
    for state, keep in zip(states, kept, strict=True):
        held = int(sizes[(state == State.REUSE) | ((state == State.DEAD) & keep)].sum())
        change = np.where(state == State.RUN, keep * sizes, np.where(state == State.REUSE, (~keep) * -sizes, 0))
        most = max(most, held, held + int(np.cumsum(change).max(initial=0)))
    return most


def within(run: np.ndarray, worth: np.ndarray, fits: Callable[[np.ndarray], bool]) -> np.ndarray:
    """run bool [T, L] -> the same with as few columns as possible set to always run, those of least `worth` [L] first.

    fits: does a plan made of these rows keep to the budget? Everything running always does: it caches nothing.
    """
    reusing = np.flatnonzero(~run.all(axis=0))
    order = reusing[np.argsort(worth[reusing], kind="stable")]
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(_given_up(run, order[:middle])) else (middle + 1, high)
    return _given_up(run, order[:low])


def _given_up(run: np.ndarray, columns: np.ndarray) -> np.ndarray:
    out = run.copy()
    out[:, columns] = True
    return out
