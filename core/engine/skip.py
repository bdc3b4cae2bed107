"""Block skipping in one run: at each call every block runs, hands out its cached output, or is dead.

Caches are kept per stream and only while a later call reads them. A forward whose streams lack a cache runs in full.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..blocks.graph import BlockGraph
from ..plan.liveness import State
from ..plan.skips import SkipPlan
from .attach import Override
from .call import Call
from .clock import Tick
from .meter import Meter


class BlockCache:
    """One block's outputs, per stream: [rows, ...] tensors, cloned in and out, since hosts edit in place."""

    def __init__(self) -> None:
        """Empty."""
        self._held: dict[Hashable, Tensor] = {}
        self._like: Tensor | None = None

    def keep(self, call: Call, value: Tensor) -> None:
        """Store the rows of each stream."""
        for key, rows in zip(call.keys(), value.split([s.rows for s in call.streams]), strict=True):
            self._held[key] = rows.clone()

    def note(self, value: Tensor) -> None:
        """Remember what the block's output looks like."""
        self._like = value.new_empty((0, *value.shape[1:]))

    def has(self, keys: tuple[Hashable, ...]) -> bool:
        """Is there a value for all of these streams?"""
        return all(key in self._held for key in keys)

    def take(self, keys: tuple[Hashable, ...]) -> Tensor:
        """The cached output for these streams, as a tensor of its own."""
        return torch.cat([self._held[key] for key in keys])

    def blank(self, rows: int) -> Tensor | None:
        """A writable tensor of the right shape that nobody reads; None before the block has run."""
        return None if self._like is None else self._like.new_empty((rows, *self._like.shape[1:]))

    def drop(self, keys: tuple[Hashable, ...]) -> None:
        """Forget these streams."""
        for key in keys:
            self._held.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.nbytes for t in self._held.values())


class SkipPart:
    """Block skipping in one run: the plan's row for each forward, and a cache per block."""

    def __init__(self, plan: SkipPlan, graph: BlockGraph, meter: Meter | None = None) -> None:
        """Before the first call."""
        self._plan, self._graph = plan, graph
        self._meter = meter
        self._caches = [BlockCache() for _ in graph.blocks]
        self._full = np.full(len(graph), State.RUN, dtype=np.int8)
        self._row, self._keep = self._full, np.ones(len(graph), dtype=bool)
        self._call = Call(0.0, (0, 0), ())
        self.counts = np.zeros(len(State), dtype=np.int64)

    def overrides(self) -> list[Override]:
        """One per block."""
        return [Override(b.module, self._around(i)) for i, b in enumerate(self._graph.blocks)]

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide this forward's row. A stream that lacks a cache makes the whole forward run in full."""
        if tick.surprise:
            self._plan.abandon()
        self._call, keys = call, call.keys()
        self._row, self._keep = self._plan.row(tick.index, call.timestep)
        reused = np.flatnonzero(self._row == State.REUSE)
        if tick.surprise or not all(self._caches[i].has(keys) for i in reused):
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
            self._meter.count_blocks(*(int(self.counts[s]) for s in (State.RUN, State.REUSE, State.DEAD)))
        self._caches = []

    @property
    def nbytes(self) -> int:
        """Memory held by caches, in bytes."""
        return sum(c.nbytes for c in self._caches)

    def _around(self, number: int) -> Callable[..., Any]:
        cache = self._caches[number]

        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            state = State(self._row[number])
            value = cache.take(self._call.keys()) if state == State.REUSE else None
            if state == State.DEAD:
                value = cache.blank(self._call.rows)
            if value is None:
                return self._run(number, inner, args, kwargs)
            self.counts[state] += 1
            return _wrapped(value, kwargs)

        return around

    def _run(self, number: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = inner(*args, **kwargs)
        value = output[0] if isinstance(output, tuple) else output
        self.counts[State.RUN] += 1
        self._caches[number].note(value)
        if self._keep[number]:
            self._caches[number].keep(self._call, value)
        return output


def _wrapped(value: Tensor, kwargs: dict[str, Any]) -> Any:
    """diffusers' transformers give a tuple when called with return_dict=False."""
    return (value,) if kwargs.get("return_dict") is False else value
