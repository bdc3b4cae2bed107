"""The cached values of one block over a run, per stream. They are cloned in and out, because hosts edit tensors in place."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from ..forecast.predictors import Predictor
from .block_value import Values
from .cached_value import CachedValue
from .call import Call


class BlockCache:
    """Holds the values of one block.

    Args:
        offload: keep values in system memory.
        predictor: how values are continued; None repeats the last one.

    Attributes:
        nbytes: bytes held.

    Example:
        >>> from skipstone.core.engine.clock import Stream
        >>> cache, call = BlockCache(), Call(999.0, (8, 8), (Stream("cond", 1),))
        >>> cache.keep(0, call, (torch.ones(1, 4),))
        >>> cache.take(call.keys(), timestep=900.0)[0]
        tensor([[1., 1., 1., 1.]])
    """

    def __init__(self, offload: bool = False, predictor: Predictor | None = None) -> None:
        """Start empty."""
        self._offload, self._predictor = offload, predictor
        self._held: dict[Hashable, CachedValue] = {}
        self._made: dict[Hashable, int] = {}
        self._like: dict[Hashable, Values] = {}
        self.nbytes = 0

    def keep(self, index: int, call: Call, values: Values) -> None:
        """Store the rows of each stream.

        Args:
            index: number of the call that computed them.
            call: its streams and timestep.
            values: tensors [rows, ...] of the whole batch.
        """
        at = 0
        for key, stream in zip(call.keys(), call.streams, strict=True):
            rows = slice(at, at + stream.rows)
            stored = tuple(None if v is None else self._stored(v[rows]) for v in values)
            last = self._pop(key) or CachedValue((), call.timestep)
            self._held[key] = held = last.followed_by(stored, call.timestep, self._predictor)
            self._made[key] = index
            self.nbytes += held.nbytes
            at += stream.rows

    def note(self, call: Call, values: Values) -> None:
        """Store the shape of the block's output, which streams of other sizes or text lengths do not share.

        Args:
            call: its streams.
            values: tensors [rows, ...] of the whole batch.
        """
        for key in call.keys():
            if key not in self._like:
                self._like[key] = tuple(None if v is None else v.new_empty((0, *v.shape[1:])) for v in values)

    def knows(self, keys: tuple[Hashable, ...]) -> bool:
        """Return whether the shapes of all streams' values are known.

        Args:
            keys: of the streams.
        """
        return all(key in self._like for key in keys)

    def has(self, keys: tuple[Hashable, ...], since: int) -> bool:
        """Return whether all streams have a recent value.

        Args:
            keys: of the streams.
            since: the earliest call that counts as recent.
        """
        return all(key in self._held and self._made[key] >= since for key in keys)

    def take(self, keys: tuple[Hashable, ...], timestep: float) -> Values:
        """Return copies of the cached values.

        Args:
            keys: of the streams.
            timestep: training timestep to which a forecast is extrapolated.
        """
        columns = zip(*(self._held[key].mapped(self._loaded).at(timestep) for key in keys), strict=True)
        return tuple(None if parts[0] is None else torch.cat(parts) for parts in columns)

    def blank(self, call: Call) -> Values | None:
        """Return uninitialised tensors of the output's shape, for values that are never consumed; None before the block has run.

        Args:
            call: its streams and rows.
        """
        like = self._like.get(call.keys()[0])
        return like and tuple(None if v is None else v.new_empty((call.rows, *v.shape[1:])) for v in like)

    def drop(self, keys: tuple[Hashable, ...]) -> None:
        """Free the values of these streams."""
        for key in keys:
            self._pop(key)

    def clear(self) -> None:
        """Free all values."""
        self.drop(tuple(self._held))

    def bytes_per_row(self) -> int:
        """Return the bytes of one row's value; 0 before the block has run."""
        return sum(v.shape[1:].numel() * v.element_size() for v in self._any_like if v is not None)

    @property
    def _any_like(self) -> Values:
        return next(iter(self._like.values()), ())

    def _pop(self, key: Hashable) -> CachedValue | None:
        held = self._held.pop(key, None)
        self.nbytes -= held.nbytes if held else 0
        return held

    def _stored(self, value: Tensor) -> Tensor:
        if not self._offload or value.device.type == "cpu":
            return value.clone()
        waiting = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.device.type == "cuda")
        return waiting.copy_(value, non_blocking=True)

    def _loaded(self, values: Values) -> Values:
        like = self._any_like or values
        return tuple(
            None if v is None or k is None else v.to(k.device, non_blocking=True)
            for v, k in zip(values, like, strict=True)
        )
