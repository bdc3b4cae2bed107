"""The pairs of one attention over a run: searched at checkpoints, kept per stream, and used for calls in between."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from ..tokens.maps import Pairs, TokenMap
from .clock import Stream

_STREAM = 3
"""Leading entries of a layout's key that identify its stream (:meth:`.call.Call.keys`); tokens, dtype and device follow."""
Layout = tuple[tuple[Any, ...], ...]
"""One key per stream of a forward."""


@dataclass(frozen=True)
class _Stored:
    """Pairs, and the checkpoint epoch at which they were searched."""

    epoch: int
    pairs: Pairs


class PairStore:
    """Pairs by stream, and the token maps made of them.

    Example:
        >>> import torch
        >>> store, streams = PairStore(), (Stream("cond", 1),)
        >>> search = lambda: Pairs(torch.tensor([[0, 0, 2]]), merged=(1,))
        >>> found = store.token_map(1, (("cond", 1, (1, 3)),), streams, False, search)
        >>> store.token_map(1, (("cond", 1, (1, 3)),), streams, False, search=None) is found
        True
    """

    def __init__(self) -> None:
        """Start empty."""
        self._stored: dict[tuple[Any, ...], _Stored] = {}
        self._maps: dict[Layout, TokenMap] = {}
        self._maps_epoch = -1

    def token_map(
        self,
        epoch: int,
        layout: Layout,
        streams: Sequence[Stream],
        one_group: bool,
        search: Callable[[], Pairs],
        whole: Callable[[Pairs], Pairs] = lambda pairs: pairs,
    ) -> TokenMap:
        """Return the map of a forward: from stored pairs if all streams have them, otherwise from a new search.

        Args:
            epoch: number of checkpoints so far; pairs of an older one are not used.
            layout: one key per stream.
            streams: of the forward.
            one_group: whether the rows of the batch must run together.
            search: returns the pairs of the whole batch.
            whole: makes of them the pairs that the map is for.
        """
        if self._maps_epoch != epoch:
            self._maps, self._maps_epoch = {}, epoch
        if layout not in self._maps or (one_group and len(self._maps[layout].groups) > 1):
            pairs = self._current(epoch, layout, one_group)
            if pairs is None:
                pairs = search()
                self._keep(epoch, layout, streams, pairs)
            self._maps[layout] = TokenMap(whole(pairs))
        return self._maps[layout]

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the pairs of these streams, and the maps that contain them."""
        gone = set(keys)
        self._stored = {key: kept for key, kept in self._stored.items() if key[:_STREAM] not in gone}
        self._maps = {layout: m for layout, m in self._maps.items() if not gone & {key[:_STREAM] for key in layout}}

    def clear(self) -> None:
        """Free everything."""
        self._stored, self._maps = {}, {}

    @property
    def nbytes(self) -> int:
        """Bytes held by pairs and maps."""
        return sum(s.pairs.nbytes for s in self._stored.values()) + sum(m.nbytes for m in self._maps.values())

    def _current(self, epoch: int, layout: Layout, one_group: bool) -> Pairs | None:
        """Return the streams' pairs of this epoch.

        None if a stream has none, or if rows that must run together have different counts.
        """
        stored = [self._stored.get(key) for key in layout]
        current = [s.pairs for s in stored if s is not None and s.epoch == epoch]
        if len(current) < len(layout):
            return None
        pairs = Pairs.cat(current)
        return None if one_group and len(set(pairs.merged)) > 1 else pairs

    def _keep(self, epoch: int, layout: Layout, streams: Sequence[Stream], pairs: Pairs) -> None:
        at = 0
        for key, stream in zip(layout, streams, strict=True):
            self._stored[key] = _Stored(epoch, pairs.rows(at, at + stream.rows))
            at += stream.rows
