"""Block skipping in one run: at each call every block runs, hands out its cached output, or is dead.

Caches are kept per stream and only while a later call reads them. A forward whose streams lack a cache runs in full.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..blocks.graph import Block, BlockGraph
from ..plan.liveness import State
from ..plan.skips import SkipPlan
from .attach import Around, Override
from .call import Call
from .clock import Tick
from .meter import Meter
from .probe import CostProbe

Values = tuple[Tensor | None, ...]
"""A block's output, or what it adds to its inputs: one tensor [rows, ...], or several."""


class BlockCache:
    """One block's values, per stream: cloned in and out, since hosts edit in place."""

    def __init__(self) -> None:
        """Empty."""
        self._held: dict[Hashable, Values] = {}
        self._made: dict[Hashable, int] = {}
        self._like: Values | None = None

    def keep(self, index: int, call: Call, values: Values) -> None:
        """Store the rows of each stream, made at call `index`."""
        at = 0
        for key, stream in zip(call.keys(), call.streams, strict=True):
            self._made[key] = index
            self._held[key] = tuple(None if v is None else v[at : at + stream.rows].clone() for v in values)
            at += stream.rows

    def note(self, values: Values) -> None:
        """Remember what the block's output looks like."""
        if self._like is None:
            self._like = tuple(None if v is None else v.new_empty((0, *v.shape[1:])) for v in values)

    def has(self, keys: tuple[Hashable, ...], since: int) -> bool:
        """Is there a value for all of these streams, made at call `since` or later?"""
        return all(key in self._held and self._made[key] >= since for key in keys)

    def take(self, keys: tuple[Hashable, ...]) -> Values:
        """The cached values for these streams, as tensors of their own."""
        columns = zip(*(self._held[key] for key in keys), strict=True)
        return tuple(None if parts[0] is None else torch.cat(parts) for parts in columns)

    def blank(self, rows: int) -> Values | None:
        """Writable tensors of the right shape that nobody reads; None before the block has run."""
        if self._like is None:
            return None
        return tuple(None if v is None else v.new_empty((rows, *v.shape[1:])) for v in self._like)

    def drop(self, keys: tuple[Hashable, ...]) -> None:
        """Forget these streams."""
        for key in keys:
            self._held.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.nbytes for values in self._held.values() for t in values if t is not None)


class SkipPart:
    """Block skipping in one run: the plan's row for each forward, and a cache per block."""

    def __init__(self, plan: SkipPlan, graph: BlockGraph, meter: Meter | None = None) -> None:
        """Before the first call."""
        self._plan, self._graph = plan, graph
        self._meter = meter
        self._caches = [BlockCache() for _ in graph.blocks]
        self._full = np.full(len(graph), State.RUN, dtype=np.int8)
        self._row, self._keep = self._full, np.ones(len(graph), dtype=bool)
        self._call, self._index = Call(0.0, (0, 0), ()), -1
        self._due = np.zeros(len(graph), dtype=np.int64)
        self._cost: list[int | None] = [None] * len(graph)
        self.counts = np.zeros(len(State), dtype=np.int64)
        self.macs = np.zeros(len(State), dtype=np.int64)

    def overrides(self) -> list[Override]:
        """One per block."""
        return [Override(b.module, self._around(i)) for i, b in enumerate(self._graph.blocks)]

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide this forward's row. A stream that lacks a cache, or was away when it was made anew, makes the whole
        forward run in full."""
        if tick.surprise:
            self._plan.abandon()
        self._call, keys = call, call.keys()
        self._row, self._keep = self._plan.row(tick.index, call.timestep, call.last)
        self._index = tick.index
        self._due[self._row == State.RUN] = tick.index
        reused = np.flatnonzero(self._row == State.REUSE)
        if tick.surprise or not all(self._caches[i].has(keys, self._due[i]) for i in reused):
            self._row = self._full
        return True

    def end(self) -> None:
        """Free what no later call reads."""
        keys = self._call.keys()
        for i in np.flatnonzero(~self._keep):
            self._caches[i].drop(keys)

    def close(self) -> None:
        """Tell the counts, and forget all."""
        if self._meter is not None:
            run, reused, dead = (int(self.counts[s]) for s in (State.RUN, State.REUSE, State.DEAD))
            self._meter.count_blocks(run, reused, dead, int(self.macs[State.RUN]), int(self.macs.sum()))
        self._caches = []

    @property
    def nbytes(self) -> int:
        """Memory held by caches, in bytes."""
        return sum(c.nbytes for c in self._caches)

    def _around(self, number: int) -> Around:
        cache, block = self._caches[number], self._graph.blocks[number]
        difference = self._graph.caching == "branch" and bool(block.carries)

        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            state = State(self._row[number])
            values = cache.take(self._call.keys()) if state == State.REUSE else None
            if state == State.DEAD:
                values = cache.blank(self._call.rows)
            if values is not None:
                self._count(number, state)
            inputs = _carried(block, args, kwargs) if difference else None
            if values is not None:
                return _output(_added(inputs, values) if inputs else values, kwargs)
            before = tuple(v.clone() for v in inputs) if inputs else None
            output = self._probed(number, inner, args, kwargs)
            values = output if isinstance(output, tuple) else (output,)
            cache.note(values)
            if self._keep[number]:
                cache.keep(self._index, self._call, _subtracted(values, before) if before else values)
            return output

        return around

    def _probed(self, number: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block; its first run of the session tells what it costs per row."""
        if self._cost[number] is None:
            with CostProbe(self._graph.blocks[number].module) as probe:
                output = inner(*args, **kwargs)
            self._cost[number] = probe.macs // max(1, self._call.rows)
        else:
            output = inner(*args, **kwargs)
        self._count(number, State.RUN)
        return output

    def _count(self, number: int, state: State) -> None:
        self.counts[state] += 1
        self.macs[state] += (self._cost[number] or 0) * self._call.rows


def _carried(block: Block, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    """The inputs that a block's outputs continue."""
    return tuple(kwargs[name] if name in kwargs else args[place] for name, place in block.carries)


def _added(inputs: tuple[Tensor, ...], values: Values) -> Values:
    return tuple(None if v is None else x + v for x, v in zip(inputs[-len(values) :], values, strict=True))


def _subtracted(values: Values, inputs: tuple[Tensor, ...]) -> Values:
    return tuple(None if v is None else v - x for v, x in zip(values, inputs[-len(values) :], strict=True))


def _output(values: Values, kwargs: dict[str, Any]) -> Any:
    """As the block itself would give it: a tuple where it has several outputs, or was told return_dict=False."""
    several = len(values) > 1 or kwargs.get("return_dict") is False
    return values if several else values[0]
