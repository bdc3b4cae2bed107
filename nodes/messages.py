"""Messages to the user: in the log, and as text on the node."""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from comfy_execution.utils import get_executing_context

from ..core.engine.report import Report
from ..core.engine.run_log import RunLog, gain

log = logging.getLogger("skipstone")

LINE = 40
"""Characters that fit in a line of a node at its default width; ComfyUI breaks longer ones inside words."""

UNACCELERATED = "sampling runs unaccelerated"

_RUNS_SHOWN = 4


TIMED = 1.0
"""Seconds of a run from which on its time is shown."""


def node_text(report: Report, log: RunLog | None = None) -> str:
    """A run's report in lines that fit a node.

    Each ends in a semicolon, where ComfyUI's newer node design keeps the line break.

    Args:
        report: of the run.
        log: the run's calls; None to leave out times.
    """
    lines = [*([gain(report, log)] if log and log.seconds >= TIMED and not report.idle else []), *report.lines()]
    return "\n".join(wrapped(f"{line};") for line in lines)


def progress(log: RunLog, of: int | None, error: str = "") -> str:
    """The run so far, such as "call 12 of 28: forecast, 0.4 s a call, about 3.1 s saved so far;".

    Args:
        log: its calls.
        of: number of calls that it will have; None if it is not known.
        error: what is known of the error, as the report says it.
    """
    count, saved = len(log.calls), log.seconds_saved
    timed = count - 1  # the call that was just made has no time yet
    times = f"{log.seconds / timed:.2f} s a call" if timed else ""
    lines = [
        f"call {count}{f' of {of}' if of else ''}: {log.calls[-1].ran}",
        times + (f", about {saved:.1f} s saved so far" if saved >= 0.05 else ""),
        error,
    ]
    return "\n".join(wrapped(f"{line};") for line in lines if line)


class _Shown:
    """What the runs of the prompt under way have shown, by node: several samplers may share a patched model."""

    def __init__(self) -> None:
        """Before the first run."""
        self._prompt: str | None = None
        self._runs: dict[str, list[str]] = {}

    def add(self, text: str, node_id: Any) -> str:
        """One run's text, after those of earlier runs of the same prompt: numbered, the last few in full."""
        prompt = getattr(get_executing_context(), "prompt_id", None)
        if prompt is None or prompt != self._prompt:
            self._prompt, self._runs = prompt, {}
        runs = self._runs.setdefault(str(node_id), [])
        runs.append(text)
        if len(runs) == 1:
            return text
        first = max(0, len(runs) - _RUNS_SHOWN)
        earlier = [f"runs 1 to {first}: see the log;"] if first else []
        return "\n".join([*earlier, *(_numbered(n, run) for n, run in enumerate(runs[first:], first + 1))])


def _numbered(number: int, text: str) -> str:
    first, *others = text.splitlines()
    return "\n".join([wrapped(f"run {number}: {first}"), *others])


_shown = _Shown()


def show_run(text: str, node_id: Any, showing: str = "") -> None:
    """Show what one run did, below what earlier runs of the same prompt did.

    Args:
        text: of the run.
        node_id: the node.
        showing: text that the node shows already.
    """
    joined = _shown.add(text, node_id)
    if joined != showing:
        show_on_node(joined, node_id)


class LiveText:
    """The run so far, shown on nodes now and then.

    Attributes:
        shown: whether anything was shown.
    """

    def __init__(self) -> None:
        """The run begins now."""
        self.shown, self._last = False, time.perf_counter()

    def due(self) -> bool:
        """Whether it is time for a new text."""
        return time.perf_counter() - self._last >= TIMED

    def show(self, lines: Sequence[str], nodes: Sequence[Any]) -> None:
        """Show lines on nodes.

        Args:
            lines: of plain text.
            nodes: ids of the nodes.
        """
        self.shown, self._last = True, time.perf_counter()
        for node in nodes:
            show_on_node("\n".join(lines), node)


def show_on_node(text: str, node_id: Any) -> None:
    """Write text under the node's widgets in every open browser; without a server (tests, scripts) nothing happens.

    ComfyUI's page inserts this text as HTML, so it is escaped here, and nowhere else. Its newer node design reads it as Markdown
    and keeps the line breaks that follow two spaces: those after a fact, not those inside one.

    Args:
        text: plain text.
        node_id: the node; None for none.
    """
    if node_id is None:
        return
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(html.escape(text, quote=False).replace(";\n", ";  \n"), str(node_id))


def warn(text: str, node_id: Any) -> None:
    """Write one warning to the log and onto the node.

    Args:
        text: plain text.
        node_id: the node; None for none.
    """
    log.warning("Skipstone: %s", text)
    show_on_node(wrapped(text), node_id)


def wrapped(text: str) -> str:
    """Break a sentence into lines that fit a node."""
    return "\n".join(wrap(text, LINE))
