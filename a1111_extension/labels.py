"""Which cond each row of a U-Net call belongs to, however the host batches them.

AUTOMATIC1111 evaluates the rows [conds..., unconds...] of a sampler step in order, in one call or in several, and may drop
the unconds in the middle of a run. So a row is identified by its place in the step's rows, not in the call.
Forge marks in each call which chunks are conds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..core.engine.clock import Stream


class StepRows:
    """Labels the rows of the U-Net calls of one pass."""

    def __init__(self) -> None:
        """Start before the first step."""
        self._timestep: float | None = None
        self.new_step(None)

    def new_step(self, conds: int | None) -> None:
        """Begin a sampler step.

        Args:
            conds: number of its cond rows, which the unconds follow; None if unknown.
        """
        self._conds = conds
        self._at = 0
        self._chunks: Counter[int] = Counter()

    def label(self, timestep: float, rows: int, chunks: Sequence[int] | None = None) -> tuple[Stream, ...]:
        """Return the streams of one call. Call it once per U-Net call, in order.

        Args:
            timestep: of the call.
            rows: in the batch.
            chunks: Forge's `cond_or_uncond`, one mark per equal part of the rows.
        """
        if timestep != self._timestep:
            self._timestep = timestep
            self.new_step(self._conds)
        if chunks and rows % len(chunks) == 0:
            return tuple(self._chunk(mark, rows // len(chunks)) for mark in chunks)
        start, self._at = self._at, self._at + rows
        if self._conds is None:
            return (Stream(("row", start), rows),)
        conds = min(max(self._conds - start, 0), rows)
        parts = (Stream(("cond", start), conds), Stream(("uncond", start + conds - self._conds), rows - conds))
        return tuple(part for part in parts if part.rows)

    def _chunk(self, mark: int, rows: int) -> Stream:
        self._chunks[mark] += 1
        return Stream(("chunk", mark, self._chunks[mark]), rows)
