"""What the first call of a run must show before any block is replaced: that the network is the one that its graph describes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..measure.hooks import Hooks
from ..models.graph import Block, BlockGraph
from .block_value import Values

_REMEDY = "another feature repeats or replaces blocks, or this is another network; token merging may still serve it"


class Proof:
    """Watches the forwards of a run's first call. failure: why blocks cannot be skipped here; empty while all is as expected."""

    def __init__(self, graph: BlockGraph) -> None:
        """Nothing is watched before :meth:`open`."""
        self.failure = ""
        self._graph = graph
        self._entered: list[int] = []
        self._counters = Hooks()

    def open(self) -> None:
        """A forward of the first call begins: every entry into a block counts, also those that run as without us."""
        self.stop()
        self._entered = []
        for number, block in enumerate(self._graph.blocks):
            self._counters.add(block.module._forward_pre_hooks, self._counter(number))

    def takes(self, block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Before a block runs: are the inputs that its outputs continue among its arguments?"""
        for name, place in block.carries if self._watching else ():
            value = kwargs[name] if name in kwargs else args[place] if place < len(args) else None
            if not isinstance(value, Tensor):
                self._fail(f"{block.name} was called without {name!r}")
        return not self.failure

    def gives(self, block: Block, values: Values, rows: int) -> bool:
        """After it ran: are its outputs tensors with one entry for each of the batch's rows?"""
        if self._watching:
            tensors = [v for v in values if v is not None]
            if not tensors or not all(isinstance(v, Tensor) and v.ndim > 1 and len(v) == rows for v in tensors):
                self._fail(f"{block.name} returns no tensor of {rows} rows")
            elif block.carries and len(values) > len(block.carries):
                self._fail(f"{block.name} returns {len(values)} values, not {len(block.carries)}")
        return not self.failure

    def close(self) -> str:
        """A forward is over: stop watching, and return what it failed by; empty where it did not, or was not watched."""
        if not self._watching:
            return ""
        self.stop()
        self._judge()
        return self.failure

    def stop(self) -> None:
        """Stop watching, whatever was seen: the forward was interrupted."""
        self._counters.remove()

    @property
    def _watching(self) -> bool:
        return len(self._counters) > 0

    def _counter(self, number: int) -> Any:
        return lambda module, args: self._entered.append(number)

    def _judge(self) -> None:
        """Every block was entered once, in the graph's order."""
        for number, block in enumerate(self._graph.blocks):
            if (times := self._entered.count(number)) != 1:
                self._fail(f"{block.name} ran {times} times in the first call")
            elif self._entered[number] != number:
                self._fail(f"{block.name} ran out of order in the first call")

    def _fail(self, what: str) -> None:
        self.failure = self.failure or f"{what}: {_REMEDY}"
