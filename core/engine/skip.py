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
from ..plan.liveness import State, derive, kept_after, liveness
from ..plan.mask import Mask
from .attach import Override
from .clock import Stream, Tick

Layout = tuple[Stream, ...]


class BlockCache:
    """One block's outputs, per stream: [rows, ...] tensors, cloned in and out, since hosts edit in place."""

    def __init__(self) -> None:
        """Empty."""
        self._held: dict[Hashable, Tensor] = {}
        self._like: Tensor | None = None

    def keep(self, streams: Layout, keys: list[Hashable], value: Tensor) -> None:
        """Store the rows of each stream."""
        for key, rows in zip(keys, value.split([s.rows for s in streams]), strict=True):
            self._held[key] = rows.clone()

    def note(self, value: Tensor) -> None:
        """Remember what the block's output looks like."""
        self._like = value.new_empty((0, *value.shape[1:]))

    def has(self, keys: list[Hashable]) -> bool:
        """Is there a value for all of these streams?"""
        return all(key in self._held for key in keys)

    def take(self, keys: list[Hashable]) -> Tensor:
        """The cached output for these streams, as a tensor of its own."""
        return torch.cat([self._held[key] for key in keys])

    def blank(self, rows: int) -> Tensor | None:
        """A writable tensor of the right shape that nobody reads; None before the block has run."""
        return None if self._like is None else self._like.new_empty((rows, *self._like.shape[1:]))

    def drop(self, keys: list[Hashable]) -> None:
        """Forget these streams."""
        for key in keys:
            self._held.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.nbytes for t in self._held.values())


class BlockPart:
    """The block side of a run's plan and its caches."""

    def __init__(self, mask: Mask, graph: BlockGraph, timesteps: tuple[float, ...] | None) -> None:
        """mask: checked against the graph. timesteps: of the calls to come, None where they are not known."""
        self._mask, self._graph = mask, graph
        self._caches = [BlockCache() for _ in graph.blocks]
        self._states = self._kept = None
        if timesteps:
            run = mask.mapped(timesteps).run
            self._states, self._kept = liveness(run, graph), kept_after(run, graph)
        self._row = np.full(len(graph), State.RUN, dtype=np.int8)
        self._keep = np.ones(len(graph), dtype=bool)
        self._streams: Layout = ()
        self._keys: list[Hashable] = []
        self.counts = np.zeros(3, dtype=np.int64)

    def overrides(self) -> list[Override]:
        """One per block."""
        return [Override(b.module, self._around(i, b)) for i, b in enumerate(self._graph.blocks)]

    def abandon(self) -> None:
        """The run left its plan: rows are found by timestep, nothing is dead, caches stay until the end."""
        self._states = self._kept = None

    def begin(self, tick: Tick, timestep: float, streams: Layout, kind: tuple[Hashable, ...]) -> None:
        """Decide this forward's row. kind: latent size, dtype, device; part of the key of each stream."""
        self._streams, self._keys = streams, [(s.key, s.rows, *kind) for s in streams]
        planned = self._states is not None and self._kept is not None
        self._row = self._states[tick.index] if planned else self._row_at(timestep)  # type: ignore[index]
        self._keep = self._kept[tick.index] if planned else np.ones(len(self._graph), dtype=bool)  # type: ignore[index]
        lacks = any(not self._caches[i].has(self._keys) for i in np.flatnonzero(self._row == State.REUSE))
        if tick.index == 0 or tick.surprise or lacks:
            self._row = np.full(len(self._graph), State.RUN, dtype=np.int8)

    def end(self) -> None:
        """After a forward: free what no later call reads."""
        for i in np.flatnonzero(~self._keep):
            self._caches[i].drop(self._keys)

    @property
    def nbytes(self) -> int:
        """Memory held by caches, in bytes."""
        return sum(c.nbytes for c in self._caches)

    def _row_at(self, timestep: float) -> np.ndarray:
        runs = derive(self._mask.row_at(timestep)[None], self._graph)[0]
        return np.where(runs, State.RUN, State.REUSE).astype(np.int8)

    def _around(self, number: int, block: Block) -> Callable[..., Any]:
        cache = self._caches[number]

        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            state = State(self._row[number])
            value = cache.take(self._keys) if state == State.REUSE else None
            if state == State.DEAD:
                value = cache.blank(sum(s.rows for s in self._streams))
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
            self._caches[number].keep(self._streams, self._keys, value)
        return output


def _wrapped(value: Tensor, kwargs: dict[str, Any]) -> Any:
    """diffusers' transformers give a tuple when called with return_dict=False."""
    return (value,) if kwargs.get("return_dict") is False else value
