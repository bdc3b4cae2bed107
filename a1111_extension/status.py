"""What became of the last picture, in one line for the panel. Independent of any host."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

from ..core.engine.report import Report, percent
from .outlook import AMBER


@dataclass
class Outcome:
    """What was done for one job.

    Args:
        on: whether Skipstone was on.
        ended: whether the job ended without an exception.
        refused: what was not done, and why.
        reports: title of a pass -> its report; a later batch replaces that of an earlier one.
        shares: title of a pass -> share of a call's work that the layers do that merge or prune; None where it is not known.
    """

    on: bool = False
    ended: bool = False
    refused: str = ""
    reports: dict[str, Report] = field(default_factory=dict)
    shares: dict[str, float | None] = field(default_factory=dict)

    def add(self, title: str, report: Report, share: float | None) -> None:
        """Keep a pass that ended.

        Args:
            title: of the pass.
            report: of the pass.
            share: of a call's work that the layers do that merge or prune tokens.
        """
        self.reports[title], self.shares[title] = report, share

    def gain(self, title: str) -> float | None:
        """The gain of a pass (:func:`gain`)."""
        return gain(self.reports[title], self.shares.get(title))


def outcome_of(p: Any) -> Outcome:
    """The outcome of a job, which is kept on its processing object."""
    found: Outcome = p.__dict__.setdefault("skipstone_outcome", Outcome())
    return found


def gain(report: Report, share: float | None = None) -> float | None:
    """How many times fewer multiply-adds a pass took; None where it took no fewer.

    Args:
        report: of the pass.
        share: of a call's work that the layers do that merge or prune. Without it, and where blocks were skipped, what merging and
            pruning save is not counted.
    """
    done = report.block_macs_run / report.block_macs_all if report.block_macs_all else 1.0
    if _counts_tokens(report, share):
        done = 1 - (share or 0.0) * (1 - report.macs_done / max(1, report.macs_dense))
    found = report.calls / (report.calls_run * done) if report.calls_run and done else 1.0
    return found if found > 1 else None


def _counts_tokens(report: Report, share: float | None) -> bool:
    return bool(report.layers) and share is not None and not report.block_macs_all


def _gain_text(report: Report, share: float | None) -> str:
    """The gain in words that say what it counts; empty without one that shows."""
    found = f"{gain(report, share) or 1.0:.1f}x"
    if found == "1.0x":
        return ""
    blocks = "less work in calls and blocks" if report.block_macs_all else "fewer calls"
    return f"{found} {blocks if report.layers and not _counts_tokens(report, share) else 'less work'}"


def header(outcome: Outcome | None) -> str:
    """Text for the panel's header: the smallest gain of the last picture's passes; empty where there was none."""
    titles = list(outcome.reports) if outcome else []
    if outcome is None or not titles or any(outcome.gain(title) is None for title in titles):
        return ""
    least = min(titles, key=lambda title: outcome.gain(title) or 1.0)
    said = _gain_text(outcome.reports[least], outcome.shares.get(least))
    return f"{said} last time" if said else ""


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
    return "; ".join(_pass(title, report, outcome) for title, report in reports.items())


def _pass(title: str, report: Report, outcome: Outcome) -> str:
    where = f"{title.split(',')[0]}: " if len(outcome.reports) > 1 else ""
    figures = ", ".join(_figures(report, outcome.shares.get(title)))
    return where + (figures or f"nothing was accelerated in {report.calls} calls")


def _figures(report: Report, share: float | None) -> list[str]:
    """The figures of a pass, one for each method, then the gain and the error."""
    saved = percent(1 - report.macs_done / max(1, report.macs_dense))
    figures = {
        f"{report.calls_run} of {report.calls} calls run": report.calls_forecast,
        f"{report.verbs} {percent(report.merged_share)} ({saved} of their attention saved)": report.served,
        f"{report.blocks_run} of {report.blocks} blocks run": report.blocks_reused + report.blocks_dead,
        _gain_text(report, share): True,
        report.error_text: True,
    }
    return [text for text, told in figures.items() if text and told]
