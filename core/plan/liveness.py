"""Which runs does anybody read? Dead ones are dropped, and no output bit changes.

The paper's rectification (Timestep-aware block masking, arXiv 2603.19939, Eq. 12) is safe only on a plain chain. This pass
works on the true consumer graph and removes at least as much.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from ..errors import RecipeError
from ..models.graph import BlockGraph


class State(IntEnum):
    """What a block does at a call. DEAD: nobody reads its value at this call; it neither runs nor needs its cache."""

    DEAD = 0
    REUSE = 1
    RUN = 2


def derive(mask: np.ndarray, graph: BlockGraph) -> np.ndarray:
    """mask bool [T, masked] -> [T, L]: up- and downsamplers run at the calls at which something they read ran."""
    full = np.zeros((len(mask), len(graph)), dtype=bool)
    full[:, list(graph.masked)] = mask
    for i, block in enumerate(graph.blocks):
        if block.derived:
            reads = list(graph.reads[i])
            full[:, i] = full[:, reads].any(axis=1) if reads else True
    return full


def rectified(mask: np.ndarray, graph: BlockGraph, how: str = "liveness") -> tuple[np.ndarray, np.ndarray]:
    """mask bool [T, masked], row 0 all ones -> (states int8 [T, L], kept bool [T, L]: whose value a later call reuses).

    how: "liveness" drops every run that nobody reads, "paper" those of :func:`paper_rule`, "off" none.
    Raises :class:`RecipeError` for a mask that reuses what was never computed, and for "paper" where it is unsafe.
    """
    if len(mask) and not mask[0].all():
        raise RecipeError("the first call must run every block: nothing is cached before it")
    run = paper_rule(mask, graph) if how == "paper" else mask
    return _sweep(run, graph, drop=how == "liveness")


def liveness(mask: np.ndarray, graph: BlockGraph) -> np.ndarray:
    """mask bool [T, masked], row 0 all ones -> states int8 [T, L].

    A value is needed when the head reads it, when a block that runs and is needed reads it, or when a later call reuses it
    before it runs again. Raises :class:`RecipeError` for a mask that reuses what was never computed.
    """
    return rectified(mask, graph)[0]


def _sweep(mask: np.ndarray, graph: BlockGraph, drop: bool) -> tuple[np.ndarray, np.ndarray]:
    runs = derive(mask, graph)
    states = np.zeros(runs.shape, dtype=np.int8)
    keep = np.zeros(runs.shape, dtype=bool)
    kept = np.zeros(len(graph), dtype=bool)
    for k in range(len(runs) - 1, -1, -1):
        keep[k] = kept
        states[k], kept = _call(runs[k], kept, graph, drop)
    return states, keep


def _call(runs: np.ndarray, kept: np.ndarray, graph: BlockGraph, drop: bool) -> tuple[np.ndarray, np.ndarray]:
    """One call, last block first. kept [L]: values that later calls reuse; returns states and what earlier calls must keep."""
    states = np.zeros(len(graph), dtype=np.int8)
    read = np.zeros(len(graph), dtype=bool)
    read[list(graph.head)] = True
    for i in range(len(graph) - 1, -1, -1):
        if runs[i] and (read[i] or kept[i] or not drop):
            states[i] = State.RUN
            read[list(graph.reads[i])] = True
        elif not runs[i] and read[i]:
            states[i] = State.REUSE
    return states, np.where(runs, False, kept | read)


def paper_rule(mask: np.ndarray, graph: BlockGraph) -> np.ndarray:
    """Eq. 12 as printed: a value that neither the next block of its call nor its own next call reads is not computed.

    mask bool [T, L] -> bool [T, L]. Raises :class:`RecipeError` where the graph is no chain: it would change the output.
    """
    if not graph.is_chain:
        raise RecipeError("rectify='paper' changes the output of this model (it is no plain chain): use 'liveness'")
    out = mask.copy()
    calls, blocks = mask.shape
    for s in range(calls - 1, -1, -1):
        for i in range(blocks - 2, -1, -1):
            reused_next = s + 1 < calls and not out[s + 1, i]
            if not out[s, i + 1] and not reused_next:
                out[s, i] = False
    return out
