"""The tab's page *Last runs*: a run's plot, its report, a table by level, and the runs as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gradio as gr

from ..core.engine.report import LayerReport, Report, percent
from ..core.engine.run_log import gain
from ..core.engine.run_plot import run_plot
from .controls import QUIET
from .history import History, Run
from .host import typeface
from .pages import amber, download, paragraph, picture, table

NEWEST = "the newest"
NONE_YET = "No run yet. Switch the panel on in txt2img or img2img and generate a picture."


def build(history: History) -> tuple[list[Any], Any]:
    """Make the page.

    Args:
        history: of the runs.

    Returns what a refresh sets, and the function that gives it.
    """
    chosen = gr.Dropdown([NEWEST], value=NEWEST, label="Run", allow_custom_value=True, elem_id="skipstone_run")
    report = gr.HTML(page(history), elem_id="skipstone_report")
    chosen.input(fn=lambda name: page(history, name), inputs=[chosen], outputs=[report], **QUIET)

    def refreshed() -> list[Any]:
        return [gr.update(choices=[NEWEST, *(run.name for run in history.runs())], value=NEWEST), page(history)]

    return [chosen, report], refreshed


def page(history: History, name: str = NEWEST) -> str:
    """One run as HTML.

    Args:
        history: of the runs.
        name: of a run; the newest by default.
    """
    runs = history.runs()
    if not runs:
        return paragraph(NONE_YET)
    run = runs[0] if name == NEWEST else next((run for run in runs if run.name == name), None)
    if run is None:
        return amber(f"{name} is no longer kept: only the last {len(runs)} runs are")
    links = [download(f"skipstone_run_{run.number}.json", exported([run]), "this run as JSON")]
    links += [download("skipstone_runs.json", exported(runs), f"all {len(runs)} as JSON")] if len(runs) > 1 else []
    said = paragraph(run.name, *run.report.lines())
    return f"{_plot(run)}{said}{levels(run.report)}<p>{' · '.join(links)}</p>"


def _plot(run: Run) -> str:
    return (
        picture(run_plot(run.log, gain(run.report, run.log), typeface()), "a bar for each call")
        if run.log.calls
        else ""
    )


def exported(runs: Sequence[Run]) -> str:
    """Runs as JSON text: what was done, in total and call by call.

    Args:
        runs: the runs.
    """
    return json.dumps([_plain(run) for run in runs], indent=2)


def _plain(run: Run) -> dict[str, Any]:
    calls = [{**asdict(entry), "ran": entry.ran} for entry in run.log.calls]
    about = {"number": run.number, "ended": run.ended.isoformat(timespec="seconds"), "title": run.title}
    return {**about, "report": run.report.to_dict(), "calls": calls}


def levels(report: Report) -> str:
    """Tables of what was done to tokens, by level of the network, and to blocks; empty without either.

    Args:
        report: of a run.
    """
    return _tokens(report) + _blocks(report)


def _tokens(report: Report) -> str:
    if not report.layers:
        return ""
    head = ("level", "layers", f"tokens {report.verbs}", "pairs searched", "pairs reused", "multiply-adds saved")
    return table(head, [_row(tokens, layers) for tokens, layers in by_level(report).items()])


def by_level(report: Report) -> dict[int, list[LayerReport]]:
    """Tokens of a level at each call -> its layers, the finest level first.

    Args:
        report: of a run.
    """
    found: dict[int, list[LayerReport]] = {}
    for layer in sorted(report.layers.values(), key=_tokens_of, reverse=True):
        found.setdefault(_tokens_of(layer), []).append(layer)
    return found


def _tokens_of(layer: LayerReport) -> int:
    return round(layer.tokens / max(1, len(layer.kept_by_call)))


def _row(tokens: int, layers: Sequence[LayerReport]) -> tuple[str, ...]:
    total = {
        name: sum(getattr(layer, name) for layer in layers)
        for name in ("tokens", "kept", "searched", "reused", "macs_dense", "macs_done")
    }
    merged = 1 - total["kept"] / max(1, total["tokens"])
    saved = 1 - total["macs_done"] / max(1, total["macs_dense"])
    figures = percent(merged), str(total["searched"]), str(total["reused"]), percent(saved)
    return f"{tokens} tokens a call", str(len(layers)), *figures


def _blocks(report: Report) -> str:
    if not report.blocks:
        return ""
    saved = percent(1 - report.block_macs_run / max(1, report.block_macs_all))
    head = ("blocks run", "blocks reused", "blocks not needed", "multiply-adds saved")
    return table(head, [(str(report.blocks_run), str(report.blocks_reused), str(report.blocks_dead), saved)])
