"""The last runs' reports, shared by both panels and the tab, and their HTML."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from threading import Lock

from ..core.engine.report import LayerReport, Report, percent

KEPT_RUNS = 20


@dataclass(frozen=True)
class Run:
    """One finished pass.

    Args:
        title: which pass it was.
        report: what was done.
        number: count since the web UI started.
        ended: when it ended.
    """

    title: str
    report: Report
    number: int
    ended: datetime = field(default_factory=datetime.now)


class History:
    """The newest runs, newest first. Jobs write it and page requests read it, in different threads."""

    def __init__(self, most: Callable[[], int] = lambda: KEPT_RUNS) -> None:
        """Start empty. most: returns how many runs are kept."""
        self._most = most
        self._runs: deque[Run] = deque()
        self._count = 0
        self._lock = Lock()

    def add(self, title: str, report: Report) -> Run:
        """Store a pass as a run; the oldest beyond the last few is dropped.

        Args:
            title: which pass it was.
            report: what was done.
        """
        with self._lock:
            self._count += 1
            run = Run(title, report, self._count)
            self._runs.appendleft(run)
            while len(self._runs) > self._most():
                self._runs.pop()
        return run

    def runs(self) -> list[Run]:
        """Return the runs, newest first."""
        with self._lock:
            return list(self._runs)


def page(history: History) -> str:
    """The tab's report as HTML: the newest run with its layers, then one line for each run before."""
    runs = history.runs()
    if not runs:
        return "<p>No run yet. Switch the panel on in txt2img or img2img and generate a picture.</p>"
    newest, earlier = runs[0], runs[1:]
    lines = "".join(f"<li>{escape(_stamp(run))}: {escape(run.report.headline())}</li>" for run in earlier)
    before = f"<h4>Earlier runs</h4><ul>{lines}</ul>" if earlier else ""
    summary = "<br>".join(map(escape, newest.report.lines()))
    tables = _blocks_table(newest.report) + _layers_table(newest.report)
    return f"<h4>{escape(_stamp(newest))}</h4><p>{summary}</p>{tables}{before}"


def first_line(run: Run) -> str:
    """One line of text: which pass it was, and what was done."""
    return f"{run.title}: {run.report.headline()}"


def _stamp(run: Run) -> str:
    return f"Run {run.number}, {run.ended:%H:%M:%S}, {run.title}"


def _blocks_table(report: Report) -> str:
    if not report.blocks:
        return ""
    head = ("blocks run", "blocks reused", "multiply-adds saved")
    return _table(
        head,
        [
            (
                str(report.blocks_run),
                str(report.blocks_reused),
                percent(1 - report.block_macs_run / max(1, report.block_macs_all)),
            )
        ],
    )


def _layers_table(report: Report) -> str:
    if not report.layers:
        return ""
    verbs = " or ".join(sorted({layer.verb for layer in report.layers.values()}))
    head = ("layer", f"tokens {verbs}", "pairs searched", "pairs reused", "multiply-adds saved")
    return _table(head, [(name, *_cells(layer)) for name, layer in report.layers.items()])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class='skipstone-table'><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{body}</table>"


def _cells(layer: LayerReport) -> tuple[str, ...]:
    merged = 1 - layer.kept / max(1, layer.tokens)
    saved = 1 - layer.macs_done / max(1, layer.macs_dense)
    return percent(merged), str(layer.searched), str(layer.reused), percent(saved)
