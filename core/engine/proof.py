"""Checks in a run's first call that the network is the one that its graph describes, before any block is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ..measure.hooks import Hooks
from ..models.graph import BlockGraph
from .block_value import Values

_REMEDY = "another feature repeats or replaces blocks, or this is another network; token merging may still work"


class Proof:
    """Watches the forwards of a run's first call.

    Args:
        graph: the blocks to expect.

    Attributes:
        failure: why blocks cannot be skipped here; "" while everything is as expected.
        unfit: number of a block -> why it alone cannot be skipped. Where outputs are cached one such block fails them all,
            because others are left out on the strength of the graph.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> block = Block("a", "block", nn.Identity(), 0)
        >>> proof = Proof(BlockGraph((block,), (frozenset(),), frozenset({0})))
        >>> proof.open()
        >>> proof.close().split(":")[0]
        'a ran 0 times in the first call'
    """

    def __init__(self, graph: BlockGraph) -> None:
        """Prepare; nothing is watched before :meth:`open`."""
        self.failure = ""
        self.unfit: dict[int, str] = {}
        self._graph = graph
        self._entered: list[int] = []
        self._counters = Hooks()

    def open(self) -> None:
        """Begin a forward of the first call, and count each entry into a block, unaccelerated ones included."""
        self.stop()
        self._entered = []
        for number, block in enumerate(self._graph.blocks):
            self._counters.add(block.module._forward_pre_hooks, self._counter(number))

    def gives(self, number: int, values: Values, rows: int) -> bool:
        """Return whether a block's outputs are tensors with one entry per row. Call it after the block ran.

        Args:
            number: of the block.
            values: its outputs, or what it adds to its inputs.
            rows: number of rows of the batch.
        """
        if self._watching:
            tensors = [v for v in values if v is not None]
            if not tensors or not all(isinstance(v, Tensor) and v.ndim > 1 and len(v) == rows for v in tensors):
                self._fail(number, f"returns no tensor of {rows} rows")
        return not self.failure and number not in self.unfit

    def close(self, unfit: Mapping[int, str] = MappingProxyType({})) -> str:
        """End a forward, and return the failure; "" if there is none, or if nothing was watched.

        Args:
            unfit: number of a block -> what else is wrong with it.
        """
        if not self._watching:
            return ""
        self.stop()
        self._judge()
        for number, what in unfit.items():
            self._fail(number, what)
        return self.failure

    def stop(self) -> None:
        """Stop watching without a verdict, because the forward was interrupted."""
        self._counters.remove()

    @property
    def _watching(self) -> bool:
        return len(self._counters) > 0

    def _counter(self, number: int) -> Any:
        return lambda module, args: self._entered.append(number)

    def _judge(self) -> None:
        """Check that every block was entered once, in the graph's order."""
        for number in range(len(self._graph)):
            if (times := self._entered.count(number)) != 1:
                self._fail(number, f"ran {times} times in the first call")
            elif self._graph.caching == "output" and self._entered[number] != number:
                self._fail(number, "ran out of order in the first call")

    def _fail(self, number: int, what: str) -> None:
        if self._graph.caching != "output":
            self.unfit.setdefault(number, what)
        if self._graph.caching == "output" or len(self.unfit) == len(self._graph):
            self.failure = self.failure or f"{self._graph.blocks[number].name} {what}: {_REMEDY}"
