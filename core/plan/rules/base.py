"""The interface of a block rule: all rows when the calls are known, one row at a time when they are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ...models.graph import BlockGraph
from ..run import Horizon

Rows = np.ndarray
"""bool [T, masked blocks]: True where a block runs."""


@dataclass(frozen=True)
class Moment:
    """One call of a run.

    Args:
        index: number of the call, from 0.
        timestep: training timestep.
        before: timestep of the call before; at the first call, its own.
        step: number of the sampler step; None when the host does not count steps. A rule decides once per step.
        input: what the network is called on [rows, ...], for data-driven rules; None when not available.

    Example:
        >>> Moment(index=5, timestep=400.0, before=450.0, step=2).turn
        2
    """

    index: int
    timestep: float
    before: float
    step: int | None = None
    input: Tensor | None = None

    @property
    def turn(self) -> int:
        """The number that intervals count: the step, or the call when steps are not known."""
        return self.index if self.step is None else self.step


class Rule(Protocol):
    """A way of choosing which blocks run. The dataclass fields of a rule are the :class:`BlockSkip` settings that it uses.

    The first call of a run always runs everything, whatever the rule returns.

    Example:
        >>> @dataclass(frozen=True)
        ... class FirstOnly:
        ...     unannounced = ""
        ...     def rows(self, graph, horizon):
        ...         return rows_with(len(horizon.timesteps), graph, full=[0], depth=-1)
        ...     def row(self, graph, horizon, at):
        ...         return row_to(graph, depth=-1)
        >>> FirstOnly().rows(BlockGraph((), (), frozenset()), Horizon((999.0, 500.0, 0.0))).shape
        (3, 0)
    """

    @property
    def unannounced(self) -> str:
        """Report line: what is lost when the calls are not known ahead; "" when nothing is."""

    def rows(self, graph: BlockGraph, horizon: Horizon) -> Rows | None:
        """Return a new array bool [T, masked] for the calls `horizon.timesteps`; None for a rule that decides call by call.

        Args:
            graph: the model's blocks.
            horizon: the calls of the run.
        """

    def row(self, graph: BlockGraph, horizon: Horizon, at: Moment) -> np.ndarray:
        """Return bool [masked] for one call of a run whose calls are not known.

        Args:
            graph: the model's blocks.
            horizon: what is known of the run.
            at: the call.
        """


def full_calls(calls: int, every: int) -> list[int]:
    """Return the numbers of evenly spaced full calls.

    Args:
        calls: number of calls.
        every: number of calls from one full call to the next.

    Example:
        >>> full_calls(7, 3)
        [0, 3, 6]
    """
    return list(range(0, calls, every))


def rows_with(calls: int, graph: BlockGraph, full: Sequence[int], depth: int) -> Rows:
    """Return rows in which some calls run everything and the others only shallow blocks.

    Args:
        calls: number of calls.
        graph: the model's blocks.
        full: numbers of the calls that run everything.
        depth: the other calls run the blocks up to this depth; -1 for none.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 0),), (frozenset(),), frozenset({0}))
        >>> rows_with(3, graph, [0], depth=-1).ravel().tolist()
        [True, False, False]
    """
    rows = np.tile(row_to(graph, depth), (calls, 1))
    rows[list(full)] = True
    return rows


def row_to(graph: BlockGraph, depth: int) -> np.ndarray:
    """Return bool [masked]: True for blocks up to a depth.

    Args:
        graph: the model's blocks.
        depth: of the innermost block that runs; -1 for none.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> blocks = tuple(Block(name, "block", nn.Identity(), depth) for depth, name in enumerate("ab"))
        >>> row_to(BlockGraph(blocks, (frozenset(), frozenset({0})), frozenset({1})), 0).tolist()
        [True, False]
    """
    return np.array([graph.blocks[i].depth <= depth for i in graph.masked], dtype=bool)


def per_step(rows: Rows, horizon: Horizon) -> Rows:
    """Repeat the row of each sampler step for all calls of that step.

    Args:
        rows: bool [steps, masked].
        horizon: a run whose calls are known.

    Example:
        >>> per_step(np.array([[True], [False]]), Horizon((900.0, 800.0, 700.0), stages=2)).ravel().tolist()
        [True, True, False]
    """
    return rows.repeat(horizon.stages, axis=0)[: len(horizon.timesteps or ())]


def steps_of(horizon: Horizon) -> int:
    """Return the number of sampler steps in a run whose calls are known.

    Example:
        >>> steps_of(Horizon((900.0, 800.0, 700.0), stages=2))
        2
    """
    return -(-len(horizon.timesteps or ()) // horizon.stages)
