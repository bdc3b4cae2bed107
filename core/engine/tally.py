"""What blocks cost, and how many of them ran, were reused or were left out in a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..measure.macs import CostProbe
from ..models.graph import BlockGraph
from ..models.readers import Watch
from ..plan.liveness import State
from .meter import Meter

_RUN = int(State.RUN)


class Tally:
    """Counts blocks and their multiply-adds; the first run of each measures its cost.

    Args:
        graph: the network's blocks.

    Attributes:
        readers: number of a block -> what stores values while it runs, found at its first run.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> layer = nn.Sequential(nn.Linear(3, 4))
        >>> tally = Tally(BlockGraph((Block("a", "block", layer, 0),), (frozenset(),), frozenset({0})))
        >>> output = tally.run(0, 2, layer.forward, (torch.ones(2, 3),), {})
        >>> tally.add(0, State.REUSE, rows=2)
        >>> tally.costs.tolist(), tally.macs.tolist()  # per row; dead, reused, run
        ([12], [0, 24, 24])
    """

    def __init__(self, graph: BlockGraph) -> None:
        """Start at zero."""
        self._graph = graph
        self._cost: list[int | None] = [None] * len(graph)
        self._probe: CostProbe | None = None
        self.readers: dict[int, str] = {}
        self._counts, self._macs = (
            [0] * len(State),
            [0] * len(State),
        )  # lists, because every block of every call adds to them
        self._reported = self.counts, self.macs

    @property
    def counts(self) -> np.ndarray:
        """Blocks so far, int [3], by :class:`State`."""
        return np.array(self._counts, dtype=np.int64)

    @property
    def macs(self) -> np.ndarray:
        """Their multiply-adds, int [3]."""
        return np.array(self._macs, dtype=np.int64)

    @property
    def costs(self) -> np.ndarray:
        """Multiply-adds of one run of each block per row, int [L]; 0 before it has run."""
        return np.array([cost or 0 for cost in self._cost], dtype=np.int64)

    def run(
        self, number: int, rows: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a block, and count it.

        Args:
            number: of the block.
            rows: of the batch.
            inner: its forward.
            args: positional arguments.
            kwargs: keyword arguments.
        """
        output = (
            self._measured(number, rows, inner, args, kwargs) if self._cost[number] is None else inner(*args, **kwargs)
        )
        self.add(number, _RUN, rows)
        return output

    def knows(self, number: int) -> bool:
        """Return whether a block's cost is known.

        Args:
            number: of the block.
        """
        return self._cost[number] is not None

    def add(self, number: int, state: int, rows: int) -> None:
        """Count a block.

        Args:
            number: of the block.
            state: what it does at this call, a :class:`State`.
            rows: of the batch.
        """
        self._counts[state] += 1
        self._macs[state] += (self._cost[number] or 0) * rows

    def forget(self) -> None:
        """Start again at zero, because nothing is skipped."""
        self._counts, self._macs = [0] * len(State), [0] * len(State)

    def unhook(self) -> None:
        """Remove the hooks of a forward that was interrupted (Ctrl-C)."""
        if self._probe is not None:
            self._probe.close()

    def report(self, meter: Meter) -> None:
        """Add what was counted since the last report to a meter."""
        counts, macs = self.counts - self._reported[0], self.macs - self._reported[1]
        run, reused, dead = (int(counts[s]) for s in (State.RUN, State.REUSE, State.DEAD))
        meter.count_blocks(run, reused, dead, int(macs[State.RUN]), int(macs.sum()))
        self._reported = self.counts, self.macs

    def _measured(
        self, number: int, rows: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        module = self._graph.blocks[number].module
        watch, self._probe = Watch(module, args, kwargs), CostProbe(module)
        with self._probe as probe:
            output = inner(*args, **kwargs)
        self._cost[number] = probe.macs // max(1, rows)
        if reader := watch.stores():
            self.readers.setdefault(number, reader)
        return output
