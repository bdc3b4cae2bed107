"""Finds block runs whose output nothing consumes, and drops them bit-exactly.

The paper's rectification (Timestep-aware block masking, arXiv 2603.19939, Eq. 12) is safe on plain chains only. This pass
works on the model's dataflow graph and drops at least as much.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from ..errors import RecipeError
from ..models.graph import BlockGraph


class State(IntEnum):
    """What a block does at a call. DEAD: its value is not consumed, so it neither runs nor needs its cache.

    Example:
        >>> State(2).name
        'RUN'
    """

    DEAD = 0
    REUSE = 1
    RUN = 2


def derive(mask: np.ndarray, graph: BlockGraph) -> np.ndarray:
    """Add the up- and downsamplers to a mask: each runs when a block that it reads has run.

    Args:
        mask: bool [T, masked], True where a block runs.
        graph: the model's blocks.

    Returns:
        bool [T, L] for all L blocks.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> blocks = Block("a", "block", nn.Identity(), 0), Block("up", "sample", nn.Identity(), 0, derived=True)
        >>> graph = BlockGraph(blocks, (frozenset(), frozenset({0})), frozenset({1}))
        >>> derive(np.array([[True], [False]]), graph).tolist()
        [[True, True], [False, False]]
    """
    full = np.zeros((len(mask), len(graph)), dtype=bool)
    full[:, list(graph.masked)] = mask
    for i, block in enumerate(graph.blocks):
        if block.derived:
            reads = list(graph.reads[i])
            full[:, i] = full[:, reads].any(axis=1) if reads else True
    return full


def rectified(mask: np.ndarray, graph: BlockGraph, how: str = "liveness") -> tuple[np.ndarray, np.ndarray]:
    """Decide what each block does at each call, and whose value is kept.

    Args:
        mask: bool [T, masked], True where a block runs; row 0 is all True.
        graph: the model's blocks.
        how: "liveness" drops each run whose output is not consumed, "paper" those of :func:`paper_rule`, "off" none.

    Returns:
        States int8 [T, L], and bool [T, L]: True where a later call reuses the block's value.

    Raises :class:`RecipeError` if row 0 is not all True, and for "paper" where it would change the output.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> blocks = tuple(Block(name, "block", nn.Identity(), 0) for name in "ab")
        >>> chain = BlockGraph(blocks, (frozenset(), frozenset({0})), frozenset({1}))
        >>> rectified(np.array([[True, True], [True, False]]), chain)[0].tolist()
        [[2, 2], [0, 1]]
    """
    if len(mask) and not mask[0].all():
        raise RecipeError("the first call must run every block: nothing is cached before it")
    run = paper_rule(mask, graph) if how == "paper" else mask
    return _sweep(run, graph, drop=how == "liveness")


def liveness(mask: np.ndarray, graph: BlockGraph) -> np.ndarray:
    """Return the states of a mask without wasted runs (:func:`rectified`).

    A value is needed if the head reads it, if a block that runs and is needed reads it, or if a later call reuses it
    before the block runs again.

    Args:
        mask: bool [T, masked], True where a block runs; row 0 is all True.
        graph: the model's blocks.

    Returns:
        States int8 [T, L].

    Raises :class:`RecipeError` if row 0 is not all True.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> blocks = tuple(Block(name, "block", nn.Identity(), 0) for name in "ab")
        >>> chain = BlockGraph(blocks, (frozenset(), frozenset({0})), frozenset({1}))
        >>> [State(s).name for s in liveness(np.array([[True, True], [True, False]]), chain)[1]]
        ['DEAD', 'REUSE']
    """
    return rectified(mask, graph)[0]


def _sweep(mask: np.ndarray, graph: BlockGraph, drop: bool) -> tuple[np.ndarray, np.ndarray]:
    runs = derive(mask, graph)
    states = np.zeros(runs.shape, dtype=np.int8)
    keep = np.zeros(runs.shape, dtype=bool)
    kept = np.zeros(len(graph), dtype=bool)
    for k in range(len(runs) - 1, -1, -1):  # from the last call back, as later reuse decides what is kept
        keep[k] = kept
        states[k], kept = _call(runs[k], kept, graph, drop)
    return states, keep


def _call(runs: np.ndarray, kept: np.ndarray, graph: BlockGraph, drop: bool) -> tuple[np.ndarray, np.ndarray]:
    """Decide one call, last block first.

    Args:
        runs: bool [L], the mask's row.
        kept: bool [L], values that later calls reuse.

    Returns:
        States int8 [L], and bool [L]: values that earlier calls must keep.
    """
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
    """Drop the runs that Eq. 12 (arXiv 2603.19939) drops, as printed.

    A value is not computed if neither the next block of its call nor the block's own next call reads it.

    Args:
        mask: bool [T, L], True where a block runs.
        graph: the model's blocks.

    Returns:
        bool [T, L].

    Raises :class:`RecipeError` if the graph is no plain chain: the rule would change the output.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> blocks = tuple(Block(name, "block", nn.Identity(), 0) for name in "ab")
        >>> chain = BlockGraph(blocks, (frozenset(), frozenset({0})), frozenset({1}))
        >>> paper_rule(np.array([[True, True], [True, False]]), chain).tolist()
        [[True, True], [False, False]]
    """
    if not graph.is_chain:
        raise RecipeError("rectify='paper' would change this model's output (no plain chain): use 'liveness'")
    out = mask.copy()
    calls, blocks = mask.shape
    for s in range(calls - 1, -1, -1):
        for i in range(blocks - 2, -1, -1):
            reused_next = s + 1 < calls and not out[s + 1, i]
            if not out[s, i + 1] and not reused_next:
                out[s, i] = False
    return out
