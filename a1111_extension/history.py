"""The last runs' reports, shared by both panels and the tab."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock

from ..core.engine.report import Report
from ..core.engine.run_log import RunLog

KEPT_RUNS = 20


@dataclass(frozen=True)
class Run:
    """One finished pass.

    Args:
        title: which pass it was.
        report: what was done.
        number: count since the web UI started.
        log: its calls, one by one.
        ended: when it ended.
    """

    title: str
    report: Report
    number: int
    log: RunLog = field(default_factory=RunLog)
    ended: datetime = field(default_factory=datetime.now)

    @property
    def name(self) -> str:
        """Its number, time and pass, in one line."""
        return f"Run {self.number}, {self.ended:%H:%M:%S}, {self.title}"


class History:
    """The newest runs, newest first. Jobs write it and page requests read it, in different threads."""

    def __init__(self, most: Callable[[], int] = lambda: KEPT_RUNS) -> None:
        """Start empty. most: returns how many runs are kept."""
        self._most = most
        self._runs: deque[Run] = deque()
        self._count = 0
        self._lock = Lock()

    def add(self, title: str, report: Report, log: RunLog | None = None) -> Run:
        """Store a pass as a run; the oldest beyond the last few is dropped.

        Args:
            title: which pass it was.
            report: what was done.
            log: its calls.
        """
        with self._lock:
            self._count += 1
            run = Run(title, report, self._count, log or RunLog())
            self._runs.appendleft(run)
            while len(self._runs) > self._most():
                self._runs.pop()
        return run

    def runs(self) -> list[Run]:
        """Return the runs, newest first."""
        with self._lock:
            return list(self._runs)


def first_line(run: Run) -> str:
    """One line of text: which pass it was, and what was done."""
    return f"{run.title}: {run.report.headline()}"
