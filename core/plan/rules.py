"""Rules that write masks: plain intervals, DeepCache, FORA, and DaTo's depth lists.

Each takes the number of calls T and the graph and returns a bool array [T, masked blocks], True where a block runs. The
first call always runs everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..blocks.graph import MIDDLE, BlockGraph
from ..errors import RecipeError

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

    mode: "uniform", or "quad" for more full calls where `quad_centre` puts them (see :func:`quad_calls`).
    """
    if mode not in ("uniform", "quad"):
        raise RecipeError(f"DeepCache mode {mode!r} is not one of uniform, quad")
    full = _full_calls(calls, every) if mode == "uniform" else quad_calls(calls, -(-calls // every))
    return _at(calls, graph, full, depth=branch)


def quad_calls(calls: int, count: int, centre: float = 0.3, power: float = 1.4) -> list[int]:
    """DeepCache's non-uniform schedule: `count` full calls, the denser the nearer to `centre` (as a share of the run)."""
    middle = centre * calls
    grid = np.linspace(-(middle ** (1 / power)), (calls - middle) ** (1 / power), count, endpoint=False)
    return sorted({0, *(int(v) for v in np.sign(grid) * np.abs(grid) ** power + middle)})


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
