"""The cache memory of a plan, and a plan that fits a budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .liveness import State


def peak_bytes(states: np.ndarray, kept: np.ndarray, sizes: np.ndarray) -> int:
    """Return the most bytes that a run holds at any moment.

    Args:
        states: int8 [T, L], a :class:`State` per call and block.
        kept: bool [T, L], True where a later call reuses the value.
        sizes: int64 [L], bytes of one value of each block.

    Example:
        >>> states = np.array([[State.RUN, State.RUN], [State.REUSE, State.RUN]])
        >>> peak_bytes(states, np.array([[True, False], [False, False]]), np.array([100, 7]))
        100
    """
    most = held = 0
    for state, keep in zip(states, kept, strict=True):
        # At the start of a call: what it reuses, and what only later calls reuse.
        held = int(sizes[(state == State.REUSE) | ((state == State.DEAD) & keep)].sum())
        # Then block by block: a run adds the value it keeps, a last reuse frees one.
        change = np.where(state == State.RUN, keep * sizes, np.where(state == State.REUSE, (~keep) * -sizes, 0))
        most = max(most, held, held + int(np.cumsum(change).max(initial=0)))
    return most


def fit_budget(run: np.ndarray, worth: np.ndarray, fits: Callable[[np.ndarray], bool]) -> np.ndarray:
    """Set as few columns as possible to always run, those of least `worth` first.

    Args:
        run: bool [T, L], True where a block runs.
        worth: [L], what each block saves per byte.
        fits: returns whether a plan of these rows fits the budget. It must accept rows that run everything.

    Returns:
        bool [T, L].

    Example:
        >>> run = np.array([[True, True], [False, False]])
        >>> fit_budget(run, np.array([2.0, 1.0]), lambda rows: rows[1].any()).tolist()
        [[True, True], [False, True]]
    """
    reusing = np.flatnonzero(~run.all(axis=0))
    order = reusing[np.argsort(worth[reusing], kind="stable")]
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(_always_running(run, order[:middle])) else (middle + 1, high)
    return _always_running(run, order[:low])


def _always_running(run: np.ndarray, columns: np.ndarray) -> np.ndarray:
    out = run.copy()
    out[:, columns] = True
    return out
