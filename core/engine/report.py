"""What ran and what it saved: counted where it happens, told in a :class:`Report`."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One module in one forward: tokens in and kept (summed over the batch), multiply-adds dense and done.

    pairs: "searched" or "reused", empty for further modules of a block whose pairs are counted already.
    verb: what became of the tokens that are not kept: "merged" or "pruned".
    """

    layer: str
    call: int
    tokens: int
    kept: int
    macs_dense: int
    macs_done: int
    pairs: str
    verb: str = "merged"


@dataclass
class LayerReport:
    """Totals of one layer over a run. kept_by_call: share of its tokens that attention ran on, per call.

    verb: what became of the others, "merged" or "pruned".
    """

    tokens: int = 0
    kept: int = 0
    searched: int = 0
    reused: int = 0
    macs_dense: int = 0
    macs_done: int = 0
    kept_by_call: dict[int, float] = field(default_factory=dict)
    verb: str = "merged"

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


@dataclass
class Report:
    """What Skipstone did in one run.

    calls: evaluations of the denoiser. served: layers that ran on a token map at least once. declined: reason -> what.
    macs_dense, macs_done: multiply-adds of the served modules without and with Skipstone, pair search included.
    """

    calls: int = 0
    layers: dict[str, LayerReport] = field(default_factory=dict)
    declined: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cache_bytes: int = 0
    planned: bool = True
    blocks_run: int = 0
    blocks_reused: int = 0
    blocks_dead: int = 0
    block_macs_run: int = 0
    block_macs_all: int = 0

    @property
    def idle(self) -> bool:
        """True when nothing was served at all."""
        return not self.served and not self.blocks_reused and not self.blocks_dead

    @property
    def served(self) -> int:
        """Number of layers served."""
        return len(self.layers)

    @property
    def blocks(self) -> int:
        """Block calls decided: run, reused or dead."""
        return self.blocks_run + self.blocks_reused + self.blocks_dead

    @property
    def merged_share(self) -> float:
        """Share of the served layers' tokens that were merged away or pruned, in [0, 1]."""
        tokens = sum(layer.tokens for layer in self.layers.values())
        return 1 - sum(layer.kept for layer in self.layers.values()) / tokens if tokens else 0.0

    @property
    def verbs(self) -> str:
        """What became of tokens: "merged", "pruned" or both."""
        return " and ".join(sorted({layer.verb for layer in self.layers.values()}))

    @property
    def macs_dense(self) -> int:
        """Multiply-adds that the served modules would have cost."""
        return sum(layer.macs_dense for layer in self.layers.values())

    @property
    def macs_done(self) -> int:
        """Multiply-adds that they did cost, pair search included."""
        return sum(layer.macs_done for layer in self.layers.values())

    @property
    def searched(self) -> int:
        """How often pairs were searched anew."""
        return sum(layer.searched for layer in self.layers.values())

    @property
    def reused(self) -> int:
        """How often pairs were reused."""
        return sum(layer.reused for layer in self.layers.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        totals = ("served", "merged_share", "macs_dense", "macs_done", "searched", "reused")
        return {**asdict(self), **{name: getattr(self, name) for name in totals}}

    def to_json(self) -> str:
        """The report as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def summary(self) -> str:
        """The report as plain lines, for a console."""
        return "\n".join(self.lines()) if self.calls else "no run yet"

    def headline(self) -> str:
        """The one line that matters most for each method."""
        done = [section[0] for section in self._sections()]
        return "; ".join(done) or f"nothing was merged, pruned or skipped in {_counted(self.calls, 'call')}"

    def lines(self) -> list[str]:
        """What every host shows: for each method what was done, then notes, then what ran unaccelerated and why."""
        done = [line for section in self._sections() for line in section] or [self.headline()]
        refused = [f"{_named(what)} unaccelerated: {reason}" for reason, what in self.declined.items()]
        return [*done, *self.notes, *refused]

    def _sections(self) -> list[list[str]]:
        """Lines of each method that did something."""
        return [lines for lines in (self._tokens(), self._blocks()) if lines]

    def _tokens(self) -> list[str]:
        if not self.served:
            return []
        saved = self.macs_dense - self.macs_done
        return [
            f"{self.verbs} {percent(self.merged_share)} of tokens in {_counted(self.served, 'layer')}, "
            f"saved {percent(saved / max(1, self.macs_dense))} of their attention",
            f"{_counted(self.calls, 'call')}: {self.searched} searches, {self.reused} reuses",
            f"{giga(saved)} GMAC less{'' if self.blocks else self._cache()}",
        ]

    def _blocks(self) -> list[str]:
        if not self.blocks:
            return []
        saved, everything = self.block_macs_all - self.block_macs_run, self.block_macs_all
        share = f", saved {percent(saved / everything)} of their multiply-adds" if everything else ""
        lines = [
            f"ran {self.blocks_run} of {self.blocks} blocks in {_counted(self.calls, 'call')}{share}",
            f"{self.blocks_reused} reused, {self.blocks_dead} not needed",
            f"{giga(saved)} GMAC less{self._cache()}",
        ]
        return lines if self.planned else [*lines, "calls not known ahead: caches kept to the end"]

    def _cache(self) -> str:
        return f", cache {self.cache_bytes / 2**20:.1f} MiB"


def percent(share: float) -> str:
    """A share as whole percent; never "-0%"."""
    return f"{round(100 * share)}%"


def giga(count: float) -> str:
    """A count in units of 1e9, with one decimal; never "-0.0"."""
    return f"{round(count / 1e9, 1) + 0.0:.1f}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _named(what: list[str]) -> str:
    return what[0] if len(what) == 1 else f"{len(what)} layers"


class Meter:
    """Collects entries of one run."""

    def __init__(self) -> None:
        """Start the clock."""
        self.report = Report()
        self._started = time.perf_counter()
        self._declined: dict[str, set[str]] = defaultdict(set)

    def add(self, entry: Entry) -> None:
        """Count one layer of one forward."""
        self.report.layers.setdefault(entry.layer, LayerReport()).add(entry)

    def decline(self, what: str, reason: str) -> None:
        """Note that `what` (a layer or call) was not served, and why."""
        self._declined[reason].add(what)

    def note(self, text: str) -> None:
        """Add one line to the report, once."""
        if text not in self.report.notes:
            self.report.notes.append(text)

    def count_blocks(self, run: int, reused: int, dead: int, macs_run: int, macs_all: int) -> None:
        """Add a run's counts of blocks, and their multiply-adds: of those that ran, and of all had they run."""
        self.report.block_macs_run += macs_run
        self.report.block_macs_all += macs_all
        self.report.blocks_run += run
        self.report.blocks_reused += reused
        self.report.blocks_dead += dead

    def keep_cache(self, nbytes: int) -> None:
        """Note the cache's present size; the report tells the peak."""
        self.report.cache_bytes = max(self.report.cache_bytes, nbytes)

    def finish(self) -> Report:
        """Bring the report up to date and return it."""
        self.report.seconds = time.perf_counter() - self._started
        self.report.declined = {reason: sorted(what) for reason, what in self._declined.items()}
        return self.report


def shortened(what: list[str]) -> str:
    """The first of several names, and how many more there are."""
    return what[0] if len(what) == 1 else f"{what[0]} and {len(what) - 1} more"
