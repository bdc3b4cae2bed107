"""Assigns the rows of a forward to streams, for bare models and diffusers pipelines.

A conditioning tensor that was seen before identifies its cond by object identity. Otherwise the forward's place among
those of its timestep does: the first of two is the same cond at each call (ldm's samplers join conds at each call).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import ref

from torch import Tensor

from ..core.engine.clock import Stream

_MOST_CONDITIONINGS = 16


class Labels:
    """Assigns the forwards of one run to streams.

    Args:
        on_orphaned: called when every recurring conditioning was freed, because the pipeline's call has returned.

    Example:
        >>> import torch
        >>> labels, text = Labels(), torch.zeros(1, 77, 8)
        >>> labels.label(999.0, text, rows=1) == labels.label(500.0, text, rows=1)
        True
    """

    def __init__(self, on_orphaned: Callable[[], Any] = lambda: None) -> None:
        """Start before the first forward."""
        self._known: list[ref[Tensor]] = []
        self._recurring: set[int] = set()
        self._timestep: float | None = None
        self._place = 0
        self._first_count: int | None = None
        self._on_orphaned = on_orphaned

    def label(self, timestep: float, conditioning: Any, rows: int, name: str | None = None) -> tuple[Stream, ...]:
        """Return the stream of this forward's rows. Call it once per forward, in order.

        Args:
            timestep: training timestep.
            conditioning: the forward's conditioning, usually a tensor.
            rows: number of rows of the batch.
            name: the cond's name, if the pipeline states it.
        """
        self._advance(timestep)
        key: Hashable = self._identity(conditioning)
        if name is not None:
            key = ("context", name)
        elif key is None:
            place = self._place % (self._first_count or self._place + 1)
            key = ("place" if place in self._recurring else "cond", place)
        context = conditioning.shape[1] if isinstance(conditioning, Tensor) and conditioning.ndim > 1 else None
        return (Stream((key, rows, context), rows),)

    def _advance(self, timestep: float) -> None:
        if timestep == self._timestep:
            self._place += 1
            return
        if self._timestep is not None and self._first_count is None:
            self._first_count = self._place + 1
        self._timestep, self._place = timestep, 0

    def _identity(self, conditioning: Any) -> Hashable:
        if not isinstance(conditioning, Tensor):
            return None
        for number, known in enumerate(self._known):
            if known() is conditioning:
                self._recurring.add(number)
                return ("cond", number)
        if self._first_count is None and len(self._known) < _MOST_CONDITIONINGS:
            self._known.append(ref(conditioning, self._freed))
            return ("cond", len(self._known) - 1)
        return None

    def _freed(self, dead: ref[Tensor]) -> None:
        if self._recurring and all(self._known[number]() is None for number in self._recurring):
            self._on_orphaned()
