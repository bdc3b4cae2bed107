"""Collects what one run did, for its report."""

from __future__ import annotations

import logging
import time
from collections import defaultdict

from .layer_report import Entry, LayerReport
from .report import Report

log = logging.getLogger("skipstone")

_LONGEST = 160


class Meter:
    """Collects the report of one run.

    Example:
        >>> meter = Meter()
        >>> meter.decline("down.0", "bypassed by the host")
        >>> meter.finish().declined
        {'bypassed by the host': ['down.0']}
    """

    def __init__(self) -> None:
        """Start timing."""
        self.report = Report()
        self._started = time.perf_counter()
        self._declined: dict[str, set[str]] = defaultdict(set)

    def add(self, entry: Entry) -> None:
        """Count one module of one forward."""
        self.report.layers.setdefault(entry.layer, LayerReport()).add(entry)

    def decline(self, what: str, reason: str) -> None:
        """Report what ran unaccelerated.

        Args:
            what: name of a layer, or "calls".
            reason: why, in one line.
        """
        self._declined[reason].add(what)

    def replace_note(self, start: str, text: str) -> None:
        """Put a line in the place of the one that begins so, or add it.

        Args:
            start: how the earlier line begins.
            text: the line.
        """
        self.report.notes = [note for note in self.report.notes if not note.startswith(start)]
        self.note(text)

    def note(self, *lines: str) -> None:
        """Add lines to the report, each once; empty ones are left out."""
        for text in lines:
            if text and text not in self.report.notes:
                self.report.notes.append(text)

    def fail(self, fault: Exception) -> None:
        """Report an unexpected error, after which the rest of the run is unaccelerated; the log gets the traceback.

        Args:
            fault: the error.
        """
        self.note(f"the rest of the run was not accelerated: {_one_line(fault)} (traceback in the log)")
        log.error("Skipstone failed: the rest of this run is unaccelerated", exc_info=fault)

    def count_forecasts(self, calls: int, how: str) -> None:
        """Set the number of calls whose output was forecast.

        Args:
            calls: their number so far.
            how: what was forecast and how, such as "line on eps".
        """
        self.report.calls_forecast, self.report.forecast_as = calls, how

    def count_blocks(self, run: int, reused: int, dead: int, macs_run: int, macs_all: int) -> None:
        """Add counts of block calls.

        Args:
            run: blocks that ran.
            reused: blocks whose cached value was used.
            dead: blocks whose value was not consumed.
            macs_run: multiply-adds of the blocks that ran.
            macs_all: multiply-adds of all of them, had they run.
        """
        self.report.block_macs_run += macs_run
        self.report.block_macs_all += macs_all
        self.report.blocks_run += run
        self.report.blocks_reused += reused
        self.report.blocks_dead += dead

    def keep_cache(self, nbytes: int) -> None:
        """Register the present cache size in bytes; the report keeps it, and the largest."""
        self.report.held_bytes = nbytes
        self.report.cache_bytes = max(self.report.cache_bytes, nbytes)

    def finish(self) -> Report:
        """Return the report, brought up to date."""
        self.report.seconds = time.perf_counter() - self._started
        self.report.declined = {reason: sorted(what) for reason, what in self._declined.items()}
        return self.report


def _one_line(fault: Exception) -> str:
    """Return the type and message of an error in one short line."""
    text = " ".join(f"{type(fault).__name__}: {fault}".split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
