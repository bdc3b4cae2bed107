"""The caches of all blocks of one run, within a budget of memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np

from ..forecast.predictors import PREDICTORS
from ..recipe.block_skip import BlockSkip
from .block_value import Values
from .cache import BlockCache
from .call import Call


class BlockCaches:
    """One cache for each block.

    Args:
        count: number of blocks.
        settings: where values are kept, how they are continued, and how much memory they may take.

    Attributes:
        limit: bytes that they may hold.
        peak: the most bytes that they held.

    Example:
        >>> caches = BlockCaches(2, BlockSkip(rule="interval", memory_budget=1.0))
        >>> caches.limit, caches.nbytes, caches[1].bytes_per_row()
        (1048576.0, 0, 0)
    """

    def __init__(self, count: int, settings: BlockSkip) -> None:
        """Start empty."""
        predictor = PREDICTORS[settings.predictor] if settings.forecast else None
        self._held = [BlockCache(settings.offload, predictor) for _ in range(count)]
        self.limit = settings.memory_budget * 2**20 or float("inf")
        self.peak = 0

    def __getitem__(self, number: int) -> BlockCache:
        return self._held[number]

    def __iter__(self) -> Iterator[BlockCache]:
        return iter(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(cache.nbytes for cache in self._held)

    def sizes(self, rows: int) -> np.ndarray:
        """Return the bytes of one value of each block, int [L].

        Args:
            rows: of the batch.
        """
        return np.array([cache.bytes_per_row() * rows for cache in self._held], dtype=np.int64)

    def keep(self, index: int, call: Call, found: Iterable[tuple[int, Values]]) -> None:
        """Store values if they fit the budget. A later call that lacks one runs in full.

        Args:
            index: number of the call that computed them.
            call: its streams and timestep.
            found: number of a block, and its values.
        """
        for number, values in found:
            self._held[number].keep(index, call, values)
            held = self.nbytes
            if held > self.limit:
                self._held[number].drop(call.keys())
            else:
                self.peak = max(self.peak, held)

    def drop(self, blocks: np.ndarray, keys: tuple[Hashable, ...]) -> None:
        """Free the values of some blocks.

        Args:
            blocks: bool [L].
            keys: of the streams.
        """
        for number in np.flatnonzero(blocks).tolist():
            self._held[number].drop(keys)

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the values of streams that left the run."""
        for cache in self._held:
            cache.drop(tuple(keys))

    def clear(self) -> None:
        """Free everything."""
        for cache in self._held:
            cache.clear()
        self._held = []
