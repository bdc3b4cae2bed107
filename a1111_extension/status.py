"""What became of the last picture, in one line for the panel. Independent of any host."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

from ..core.engine.report import Report, percent
from .view import AMBER


@dataclass
class Outcome:
    """What was done for one job.

    Args:
        on: whether Skipstone was on.
        ended: whether the job ended without an exception.
        refused: what was not done, and why.
        reports: title of a pass -> its report; a later batch replaces that of an earlier one.
    """

    on: bool = False
    ended: bool = False
    refused: str = ""
    reports: dict[str, Report] = field(default_factory=dict)


def outcome_of(p: Any) -> Outcome:
    """The outcome of a job, which is kept on its processing object."""
    found: Outcome = p.__dict__.setdefault("skipstone_outcome", Outcome())
    return found


def gain(report: Report) -> float | None:
    """How many times fewer multiply-adds the calls and blocks took; None where neither was skipped. What merging and pruning save
    of the attention is not in it."""
    share = report.block_macs_run / report.block_macs_all if report.block_macs_all else 1.0
    found = report.calls / (report.calls_run * share) if report.calls_run and share else 1.0
    return found if found > 1 else None


def _gain_text(report: Report) -> str:
    """The gain in words that say what it counts; empty without one."""
    if (found := gain(report)) is None:
        return ""
    blocks = "less work in calls and blocks" if report.block_macs_all else "fewer calls"
    return f"{found:.1f}x {blocks if report.layers else 'less work'}"


def header(outcome: Outcome | None) -> str:
    """Text for the panel's header: the smallest gain of the last picture's passes; empty where there was none."""
    reports = list(outcome.reports.values()) if outcome else []
    if not reports or any(gain(report) is None for report in reports):
        return ""
    least = min(reports, key=lambda report: gain(report) or 1.0)
    return f"{_gain_text(least)} last time"


def status(outcome: Outcome | None) -> str:
    """One line of HTML: what the last picture got, that Skipstone was off, or why something was refused."""
    if outcome is None:
        return "No picture yet."
    done = _done(outcome)
    told = [escape(f"This picture: {done}.")] if done else []
    if not outcome.ended:
        told.append(AMBER.format("This picture did not finish."))
    elif outcome.refused:
        told.append(AMBER.format(escape(f"This picture: Skipstone {outcome.refused}")))
    return " ".join(told) or f"This picture: {'nothing was accelerated' if outcome.on else 'Skipstone was off'}."


def console(outcome: Outcome) -> str:
    """The same as a line for the console; empty where Skipstone was off and nothing was refused."""
    done = _done(outcome)
    told = [f"Skipstone: {done}."] if done else []
    told += [f"Skipstone {outcome.refused}"] if outcome.refused else []
    return " ".join(told) or ("Skipstone: nothing was accelerated." if outcome.on else "")


def _done(outcome: Outcome) -> str:
    """What was done in each pass; empty for nothing. A pass that was refused whole is not in it."""
    reports = {title: r for title, r in outcome.reports.items() if not (r.idle and outcome.refused)}
    return "; ".join(_pass(title, report, len(outcome.reports)) for title, report in reports.items())


def _pass(title: str, report: Report, passes: int) -> str:
    where = f"{title.split(',')[0]}: " if passes > 1 else ""
    return where + (", ".join(_figures(report)) or f"nothing was accelerated in {report.calls} calls")


def _figures(report: Report) -> list[str]:
    """The figures of a pass, one for each method, then the gain and the error."""
    saved = percent(1 - report.macs_done / max(1, report.macs_dense))
    figures = {
        f"{report.calls_run} of {report.calls} calls run": report.calls_forecast,
        f"{report.verbs} {percent(report.merged_share)} ({saved} of their attention saved)": report.served,
        f"{report.blocks_run} of {report.blocks} blocks run": report.blocks_reused + report.blocks_dead,
        _gain_text(report): True,
        report.error_text: True,
    }
    return [text for text, told in figures.items() if text and told]
