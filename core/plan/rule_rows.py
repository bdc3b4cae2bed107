"""Rules that write masks: plain intervals, DeepCache, FORA, and DaTo's depth lists.

Each takes the number of calls T and the graph and returns a bool array [T, masked blocks], True where a block runs. The
first call always runs everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import RecipeError
from ..models.graph import MIDDLE, BlockGraph

FULL_DEPTH = 10
"""DaTo writes full calls as 11, 12 or 13; so does anything from here on."""


def interval(calls: int, graph: BlockGraph, every: int) -> np.ndarray:
    """Every `every`-th call runs all blocks, the others none."""
    return _at(calls, graph, _full_calls(calls, every), depth=-1)


def fora(calls: int, graph: BlockGraph, every: int) -> np.ndarray:
    """FORA (arXiv 2407.01425): all attention and feed-forward branches anew at every `every`-th call, cached between."""
    return interval(calls, graph, every)


def deepcache(calls: int, graph: BlockGraph, every: int, branch: int = 0, mode: str = "uniform") -> np.ndarray:
    """DeepCache (arXiv 2312.00858): between full calls only blocks outside skip `branch` run (its `cache_branch_id`).

    mode: "uniform", or "quad" for as many full calls, placed by :func:`quad_calls`.
    """
    if mode not in ("uniform", "quad"):
        raise RecipeError(f"DeepCache mode {mode!r} is not one of uniform, quad")
    uneven = mode == "quad" and 1 < every < calls
    full = quad_calls(calls, -(-calls // every)) if uneven else _full_calls(calls, every)
    return _at(calls, graph, full, depth=branch)


def quad_calls(calls: int, count: int, centre: int | None = None, power: float = 1.4) -> list[int]:
    """DeepCache's non-uniform schedule, as its package has it: `count` full calls, denser near `centre` (30 % of the run).

    Offsets from the centre are equal steps between -centre and calls - centre, distorted by `power`. The root of the negative
    end is the complex one, of which the real part counts. Powers fall to 1 until all calls differ.
    """
    centre = calls * 3 // 10 if centre is None else centre
    while power > 1:
        grid = np.linspace(complex(-centre) ** (1 / power), (calls - centre) ** (1 / power), count + 1)
        offsets = np.unique((grid**power).real.astype(int))[1:-1]
        if len(offsets) == count - 1:
            return [0, *(centre + int(offset) for offset in offsets)]
        power -= 0.02
    raise RecipeError(f"mode='quad' cannot place {count} full calls among {calls}: use mode='uniform'")


def depths(codes: Sequence[int], graph: BlockGraph) -> np.ndarray:
    """DaTo's cache depths (arXiv 2501.00375), one code for each call from 1 on, as published; call 0 runs everything.

    0 repeats the call before, d runs the d outermost levels, 10 and above all.
    """
    levels = [MIDDLE, *(MIDDLE if code >= FULL_DEPTH else code - 1 for code in codes)]
    return np.stack([_row(graph, depth) for depth in levels])


def _full_calls(calls: int, every: int) -> list[int]:
    if every < 1:
        raise RecipeError(f"interval {every} is below 1: 1 runs every call in full, 3 is DeepCache's choice")
    return list(range(0, calls, every))


def _at(calls: int, graph: BlockGraph, full: Sequence[int], depth: int) -> np.ndarray:
    mask = np.tile(_row(graph, depth), (calls, 1))
    mask[list(full)] = True
    return mask


def _row(graph: BlockGraph, depth: int) -> np.ndarray:
    return np.array([graph.blocks[i].depth <= depth for i in graph.masked], dtype=bool)
