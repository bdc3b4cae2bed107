"""What each call of a sampling run did, and how long it took.

It is read off the engines' reports as they grow, and never waits for the device: samplers and engines do so once a call.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from .report import Report


@dataclass
class CallEntry:
    """One call.

    Args:
        started: when it began, in seconds of the process's clock.
        seconds: how long it took, with the sampler's own work up to the next call.
        forecast: whether the network did not run.
        blocks: block calls.
        blocks_run: those of them that ran.
        tokens: tokens of the layers that merge or prune, summed.
        kept: those of them that attention ran on.
        held: bytes that all caches held after it.
        error: relative error of the output that would have been forecast; None where none was compared.

    Example:
        >>> CallEntry(0.0, 0.5, blocks=4, blocks_run=3).ran
        'partly'
    """

    started: float
    seconds: float = 0.0
    forecast: bool = False
    blocks: int = 0
    blocks_run: int = 0
    tokens: int = 0
    kept: int = 0
    held: int = 0
    error: float | None = None

    @property
    def ran(self) -> str:
        """What ran: "full", "partly" or "forecast"."""
        if self.forecast:
            return "forecast"
        return "full" if self.blocks_run == self.blocks and self.kept == self.tokens else "partly"

    @property
    def work(self) -> float:
        """Share of the call's blocks that ran, 0 for a forecast: what is drawn."""
        if self.forecast:
            return 0.0
        return self.blocks_run / self.blocks if self.blocks else 1.0

    @property
    def merged(self) -> float:
        """Share of the tokens that were merged or pruned."""
        return 1 - self.kept / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class _Totals:
    """Counts of a run so far."""

    calls: int = 0
    forecast: int = 0
    blocks: int = 0
    blocks_run: int = 0
    tokens: int = 0
    kept: int = 0

    @classmethod
    def of(cls, whole: Report | None, parts: Sequence[Report]) -> _Totals:
        layers = [layer for report in parts for layer in report.layers.values()]
        return cls(
            calls=whole.calls if whole else max((report.calls for report in parts), default=0),
            forecast=whole.calls_forecast if whole else 0,
            blocks=sum(report.blocks for report in parts),
            blocks_run=sum(report.blocks_run for report in parts),
            tokens=sum(layer.tokens for layer in layers),
            kept=sum(layer.kept for layer in layers),
        )


@dataclass
class RunLog:
    """The calls of one run, in order.

    Args:
        calls: one entry each.
        finished: whether the run has ended.

    Example:
        >>> log = RunLog()
        >>> log.update(Report(calls=1), [])
        True
        >>> log.calls[0].ran
        'full'
    """

    calls: list[CallEntry] = field(default_factory=list)
    finished: bool = False
    _seen: _Totals = _Totals()
    _began: float | None = None

    def begin(self) -> None:
        """A forward begins, or a batch of them."""
        self._began = time.perf_counter() if self._began is None else self._began

    def update(self, whole: Report | None, parts: Sequence[Report]) -> bool:
        """A forward, or a batch of them, has ended. Returns whether it was of a new call.

        Args:
            whole: the report of call skipping so far; None without it.
            parts: those of the engines of the other methods; one engine may have both.
        """
        now, seen = _Totals.of(whole, parts), self._seen
        began, self._began, self._seen = self._began or time.perf_counter(), None, now
        new = now.calls > len(self.calls)
        if new:
            self._close(began)
            self.calls += [CallEntry(began) for _ in range(now.calls - len(self.calls))]
        if self.calls:
            entry = self.calls[-1]
            entry.forecast = now.forecast > seen.forecast or (entry.forecast and now.forecast == seen.forecast)
            for name in ("blocks", "blocks_run", "tokens", "kept"):
                setattr(entry, name, getattr(entry, name) + getattr(now, name) - getattr(seen, name))
            everything = {id(report): report for report in (*parts, *([whole] if whole else []))}
            entry.held = sum(report.held_bytes for report in everything.values())
        return new

    def compare(self, reports: Sequence[Report]) -> None:
        """Enter the errors that were compared, which are known after the run.

        Args:
            reports: of the run.
        """
        for call, error in (pair for report in reports for pair in report.compared.items()):
            if call < len(self.calls):
                self.calls[call].error = error

    def end(self) -> None:
        """The run has ended. It may be called twice."""
        if not self.finished:
            self._close(time.perf_counter())
        self.finished = True

    def _close(self, now: float) -> None:
        if self.calls:
            self.calls[-1].seconds = now - self.calls[-1].started

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return sum(entry.seconds for entry in self.calls)

    @property
    def seconds_saved(self) -> float:
        """About how much longer full calls would have taken; 0 where no full call is known to compare with."""
        others = [entry.seconds for entry in self.calls if entry.ran != "full" and entry.seconds]
        return max(0.0, self._full_call * len(others) - sum(others)) if others else 0.0

    @property
    def seconds_in_full(self) -> float:
        """About how long the run would have taken with full calls; 0 where no full call is known to compare with."""
        return self.seconds + self.seconds_saved if self._full_call else 0.0

    @property
    def _full_call(self) -> float:
        """Seconds of a full call; 0 without one. The first counts only where it is the only one: it may load the model."""
        full = [entry.seconds for entry in self.calls[1:] if entry.ran == "full" and entry.seconds]
        full = full or [entry.seconds for entry in self.calls[:1] if entry.ran == "full"]
        return median(full) if full else 0.0


def gain(report: Report, log: RunLog) -> str:
    """What a run saved, such as "1.83x faster in multiply-adds, 12.1 s, about 9.8 s saved".

    Args:
        report: of the run.
        log: its calls.

    Example:
        >>> gain(Report(calls=4, calls_forecast=2), RunLog([CallEntry(0.0, 2.0), CallEntry(2.0, 0.5, forecast=True)]))
        '2.00x faster in multiply-adds, 2.5 s, about 1.5 s saved'
    """
    fewer, saved = report.speedup or 1.0, log.seconds_saved
    return ", ".join(
        [
            *([f"{fewer:.2f}x faster in multiply-adds"] if fewer >= 1.005 else []),
            f"{log.seconds:.1f} s",
            *([f"about {saved:.1f} s saved"] if saved >= 0.05 else []),
        ]
    )
