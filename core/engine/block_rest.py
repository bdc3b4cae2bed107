"""Which overrides of block skipping have nothing to do in a forward: entering them takes time, and on a fast GPU that is felt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..models.graph import BlockGraph
from ..plan.liveness import State
from .override import Override

_RUN = int(State.RUN)


def rest(
    overrides: Sequence[Override],
    graph: BlockGraph,
    states: Sequence[int],
    kept: Sequence[bool],
    left_out: Sequence[bool],
    known: Callable[[int], bool],
) -> list[int]:
    """Let overrides idle: those of blocks that run as they are, of stages that run, and of the blocks of a stage that is left out.

    Args:
        overrides: of the graph's blocks, then of its stages.
        graph: the network's blocks.
        states: of each block, a :class:`State`.
        kept: for each block, whether its value is to be kept.
        left_out: for each stage, whether it is left out.
        known: whether nothing is to be learnt of a block by watching it run.

    Returns the blocks that run unseen.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> layer = nn.Identity()
        >>> graph = BlockGraph((Block("a", "block", layer, 0),), (frozenset(),), frozenset({0}))
        >>> override = Override(layer, lambda inner, x: inner(x))
        >>> rest([override], graph, [_RUN], [False], [], known=lambda number: True), override.idle
        ([0], True)
    """
    unseen = [n for n, state in enumerate(states) if state == _RUN and not kept[n] and known(n)]
    idle = set(unseen)
    for stage, out in zip(graph.stages, left_out, strict=True):
        idle.update(stage.blocks if out else ())
    for number, override in enumerate(overrides):
        override.idle = number in idle if number < len(states) else not left_out[number - len(states)]
    return unseen
