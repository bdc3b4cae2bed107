"""What ran on fewer tokens: one module in one forward, and the totals of a layer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One module in one forward.

    Args:
        layer: name of the layer.
        call: number of the call, from 0.
        tokens: tokens before reduction, summed over the batch.
        kept: tokens after reduction, summed over the batch.
        macs_dense: multiply-adds without reduction.
        macs_done: multiply-adds done, pair search included.
        pairs: "searched" or "reused"; "" for further modules of a block whose pairs are counted already.
        verb: what happened to the tokens that are not kept: "merged" or "pruned".
        macs_search: multiply-adds of the pair search alone.

    Example:
        >>> from skipstone.core.engine.meter import Meter
        >>> meter = Meter()
        >>> meter.add(Entry("down.0", call=0, tokens=64, kept=48, macs_dense=100, macs_done=70, pairs="searched"))
        >>> meter.finish().headline()
        'merged 25% of tokens in 1 layer, saved 30% of their attention'
    """

    layer: str
    call: int
    tokens: int
    kept: int
    macs_dense: int
    macs_done: int
    pairs: str
    verb: str = "merged"
    macs_search: int = 0


@dataclass
class LayerReport:
    """Totals of one layer over a run.

    Args:
        tokens: tokens before reduction.
        kept: tokens after reduction.
        searched: number of pair searches.
        reused: number of times that pairs were reused.
        macs_dense: multiply-adds without reduction.
        macs_done: multiply-adds done, pair searches included.
        kept_by_call: share of the tokens that attention ran on, per call.
        verb: what happened to the others, "merged" or "pruned".
        macs_search: multiply-adds of the pair searches alone.

    Example:
        >>> layer = LayerReport()
        >>> layer.add(Entry("down.0", call=0, tokens=64, kept=48, macs_dense=100, macs_done=70, pairs="searched"))
        >>> layer.kept_by_call
        {0: 0.75}
    """

    tokens: int = 0
    kept: int = 0
    searched: int = 0
    reused: int = 0
    macs_dense: int = 0
    macs_done: int = 0
    kept_by_call: dict[int, float] = field(default_factory=dict)
    verb: str = "merged"
    macs_search: int = 0

    def add(self, entry: Entry) -> None:
        """Count one entry."""
        self.tokens += entry.tokens
        self.kept += entry.kept
        self.searched += entry.pairs == "searched"
        self.reused += entry.pairs == "reused"
        self.macs_dense += entry.macs_dense
        self.macs_done += entry.macs_done
        self.kept_by_call[entry.call] = entry.kept / max(1, entry.tokens)
        self.verb = entry.verb
        self.macs_search += entry.macs_search
