"""Rows made for one list of calls, brought to another list by timestep: each block keeps its share of runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_HALF = 0.5 + 1e-9


def nearest(own: Sequence[float], timestep: float) -> int:
    """Index of the call nearest in timestep."""
    return int(np.abs(np.asarray(own) - timestep).argmin())


def mapped_rows(run: np.ndarray, own: Sequence[float], wanted: Sequence[float]) -> np.ndarray:
    """run bool [T, L] for the timesteps `own` -> bool [len(wanted), L].

    Where calls become more, each takes the nearest row. Where they become fewer, a call stands for several rows: a block's
    runs in these are added up, and it runs whenever half a run is due at the new density. So no refresh is lost between
    two calls, columns that agree go on agreeing, and the share of runs stays. The first call runs everything.
    """
    at = [nearest(own, t) for t in wanted]
    density = len(at) / (abs(at[-1] - at[0]) + 1)
    rows = run[at] if density >= 1 else _thinned(run, at, density)
    rows[0] = True
    return rows


def _thinned(run: np.ndarray, at: list[int], density: float) -> np.ndarray:
    """Error diffusion along each column."""
    rows = np.zeros((len(at), run.shape[1]), dtype=bool)
    due = np.zeros(run.shape[1])
    for k in range(1, len(at)):
        due += density * crossed(run, at[k - 1], at[k]).sum(axis=0)
        rows[k] = due > _HALF
        due -= rows[k]
    return rows


def depth_rows(rows: np.ndarray, positions: Sequence[float]) -> np.ndarray:
    """rows bool [n, L] of a depth list for a full run -> [T, L] for calls at `positions` in [0, 1].

    Each call takes the nearest row, and each full row goes to the call nearest to it, so that its timestep keeps its refresh.
    A full run of as many calls takes the list as it stands: repeated timesteps (PLMS) do not shift it.
    """
    last = len(rows) - 1
    if len(positions) == len(rows) and positions[0] == 0.0 and positions[-1] == 1.0:
        return rows.copy()
    place = last * np.asarray(positions)
    out = rows[place.round().astype(int)]
    for full in np.flatnonzero(rows.all(axis=1)):
        if round(place[0]) <= full <= round(place[-1]):
            out[np.abs(place - full).argmin()] = True
    return out


def crossed(run: np.ndarray, before: int, now: int) -> np.ndarray:
    """The rows after call `before` up to call `now`; the row of `now` alone where time did not go on."""
    return run[before + 1 : now + 1] if now > before else run[now : now + 1]
