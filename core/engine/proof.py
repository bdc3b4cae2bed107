"""Checks in a run's first call that the network is the one that its graph describes, before any block is skipped."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..measure.hooks import Hooks
from ..models.graph import Block, BlockGraph
from .block_value import Values

_REMEDY = "another feature repeats or replaces blocks, or this is another network; token merging may still work"


class Proof:
    """Watches the forwards of a run's first call.

    Args:
        graph: the blocks to expect.

    Attributes:
        failure: why blocks cannot be skipped here; "" while everything is as expected.

    Example:
        >>> from torch import nn
        >>> block = Block("a", "block", nn.Identity(), 0)
        >>> proof = Proof(BlockGraph((block,), (frozenset(),), frozenset({0})))
        >>> proof.open()
        >>> proof.close().split(":")[0]
        'a ran 0 times in the first call'
    """

    def __init__(self, graph: BlockGraph) -> None:
        """Prepare; nothing is watched before :meth:`open`."""
        self.failure = ""
        self._graph = graph
        self._entered: list[int] = []
        self._counters = Hooks()

    def open(self) -> None:
        """Begin a forward of the first call, and count each entry into a block, unaccelerated ones included."""
        self.stop()
        self._entered = []
        for number, block in enumerate(self._graph.blocks):
            self._counters.add(block.module._forward_pre_hooks, self._counter(number))

    def takes(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Return whether the inputs that a block continues are among its arguments. Call it before the block runs.

        Args:
            block: the block.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        for name, place in block.carries if self._watching else ():
            value = kwargs[name] if name in kwargs else args[place] if place < len(args) else None
            if not isinstance(value, Tensor):
                self._fail(f"{block.name} was called without {name!r}")
        return not self.failure

    def gives(self, block: Block, values: Values, rows: int) -> bool:
        """Return whether a block's outputs are tensors with one entry per row. Call it after the block ran.

        Args:
            block: the block.
            values: its outputs.
            rows: number of rows of the batch.
        """
        if self._watching:
            tensors = [v for v in values if v is not None]
            if not tensors or not all(isinstance(v, Tensor) and v.ndim > 1 and len(v) == rows for v in tensors):
                self._fail(f"{block.name} returns no tensor of {rows} rows")
            elif block.carries and len(values) > len(block.carries):
                self._fail(f"{block.name} returns {len(values)} values, not {len(block.carries)}")
        return not self.failure

    def close(self) -> str:
        """End a forward, and return the failure; "" if there is none, or if nothing was watched."""
        if not self._watching:
            return ""
        self.stop()
        self._judge()
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
        for number, block in enumerate(self._graph.blocks):
            if (times := self._entered.count(number)) != 1:
                self._fail(f"{block.name} ran {times} times in the first call")
            elif self._entered[number] != number:
                self._fail(f"{block.name} ran out of order in the first call")

    def _fail(self, what: str) -> None:
        self.failure = self.failure or f"{what}: {_REMEDY}"
