"""Maps rows made for one list of calls to another list, by timestep."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_HALF = 0.5 + 1e-9


def nearest(own: Sequence[float], timestep: float) -> int:
    """Return the index of the call with the nearest timestep.

    Args:
        own: timesteps of the calls.
        timestep: the one to look for.

    Example:
        >>> nearest((999.0, 500.0, 0.0), 430.0)
        1
    """
    return int(np.abs(np.asarray(own) - timestep).argmin())


def mapped_rows(run: np.ndarray, own: Sequence[float], wanted: Sequence[float]) -> np.ndarray:
    """Map rows made for the calls `own` to the calls `wanted`.

    With more calls than before, each call takes the nearest row. With fewer, one call covers several rows: the runs of a
    block in these rows are summed, and the block runs when half a run is due at the new density. So no refresh is lost,
    equal columns stay equal, and each block keeps its share of runs. The first call runs everything.

    Args:
        run: bool [T, L], True where a block runs.
        own: T timesteps that the rows were made for.
        wanted: timesteps of the new run.

    Returns:
        bool [len(wanted), L].

    Example:
        >>> run = np.array([[True], [False], [True], [False]])
        >>> mapped_rows(run, (900, 600, 300, 0), (900, 300)).tolist()
        [[True], [True]]
    """
    at = [nearest(own, t) for t in wanted]
    density = len(at) / (abs(at[-1] - at[0]) + 1)
    rows = run[at] if density >= 1 else _thinned(run, at, density)
    rows[0] = True
    return rows


def _thinned(run: np.ndarray, at: list[int], density: float) -> np.ndarray:
    """Spread each column's runs over fewer calls by error diffusion."""
    rows = np.zeros((len(at), run.shape[1]), dtype=bool)
    due = np.zeros(run.shape[1])  # runs owed to each block so far, in calls of the new run
    for k in range(1, len(at)):
        due += density * crossed(run, at[k - 1], at[k]).sum(axis=0)
        rows[k] = due > _HALF
        due -= rows[k]
    return rows


def depth_rows(rows: np.ndarray, positions: Sequence[float]) -> np.ndarray:
    """Map the rows of a depth list, made for a full run, to the calls of another run.

    Each call takes the nearest row. Each full row also goes to the nearest call, so that no refresh is lost. A full run
    with as many calls as rows uses the list unchanged, so that repeated timesteps (PLMS) do not shift it.

    Args:
        rows: bool [n, L], one row per call of a full run.
        positions: position of each call in [0, 1].

    Returns:
        bool [T, L].

    Example:
        >>> rows = np.array([[True], [False], [False], [False], [True]])
        >>> depth_rows(rows, (0.0, 0.5, 1.0)).tolist()
        [[True], [False], [True]]
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
    """Return the rows after one call up to and including another.

    Args:
        run: [T, ...], one row per call.
        before: number of the earlier call.
        now: number of the later call; if it is not later, only its own row is returned.

    Example:
        >>> crossed(np.array([[1], [2], [3]]), 0, 2).tolist()
        [[2], [3]]
    """
    return run[before + 1 : now + 1] if now > before else run[now : now + 1]
