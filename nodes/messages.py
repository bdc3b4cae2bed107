"""Saying something to the user: in the log, and as text on the node."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from textwrap import wrap
from typing import Any

from ..core.engine.meter import Report

log = logging.getLogger("skipstone")

LINE = 40
"""Characters that fit in a line of a node at its default width; ComfyUI breaks longer ones inside words."""


def node_text(report: Report) -> str:
    """A run's report in short lines. The first two say it all: that is what a node of default height shows.

    Lines end in punctuation, because ComfyUI's newer node design turns line breaks into spaces.
    """
    lines = _reduced(report) if report.served else []
    lines += _skipped(report)
    if not lines:
        lines = [f"served NO layer in {report.calls} calls: nothing was merged, pruned or skipped;"]
    lines += [f"{note};" for note in report.notes]
    lines += [f"{len(what)} layers dense: {reason};" for reason, what in report.declined.items()]
    return "\n".join(part for line in lines for part in wrap(line, LINE))


def _reduced(report: Report) -> list[str]:
    """What token merging and pruning did."""
    verbs = sorted({layer.verb for layer in report.layers.values()})
    cache = "" if report.blocks else f", cache {report.cache_bytes / 2**20:.1f} MiB"
    return [
        f"{' and '.join(verbs)} {report.merged_share:.0%} of tokens in {report.served} layers,",
        f"saved {1 - report.macs_done / max(1, report.macs_dense):.0%} of their attention;",
        f"{report.calls} calls: {report.searched} searches, {report.reused} reuses;",
        f"{(report.macs_dense - report.macs_done) / 1e9:.1f} GMAC less{cache};",
    ]


def _skipped(report: Report) -> list[str]:
    """What block skipping did; nothing where no mask was on the model."""
    entered = report.blocks_run + report.blocks_reused + report.blocks_dead
    if not entered:
        return []
    less = report.block_macs_all - report.block_macs_run
    lines = [
        f"ran {report.blocks_run} of {entered} blocks in {report.calls} calls,",
        f"saved {less / max(1, report.block_macs_all):.0%} of their multiply-adds;",
        f"{report.blocks_reused} reused, {report.blocks_dead} not needed;",
        f"{less / 1e9:.1f} GMAC less, cache {report.cache_bytes / 2**20:.1f} MiB;",
    ]
    return lines if report.planned else [*lines, "calls not known ahead: caches kept to the end;"]


def show_on_node(text: str, node_id: Any) -> None:
    """Write text under the node's widgets in every open browser; without a server (tests, scripts) nothing happens."""
    if node_id is None:
        return
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_progress_text(text, str(node_id))


def show_on_nodes(text: str, nodes: Iterable[Any]) -> None:
    """The same text under several nodes."""
    for node_id in nodes:
        show_on_node(text, node_id)


def warn(text: str, node_id: Any) -> None:
    """One warning, in the log and on the node."""
    log.warning("Skipstone: %s", text)
    show_on_node(wrapped(text), node_id)


def wrapped(text: str) -> str:
    """A sentence in lines that fit a node."""
    return "\n".join(wrap(text, LINE))
