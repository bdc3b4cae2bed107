"""What the last run of each patched model did, for the node that reports it."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ..core.engine.report import Report
from ..core.engine.run_log import RunLog


@dataclass(frozen=True)
class Record:
    """One run.

    Args:
        reports: of its engines.
        refusals: what ran unaccelerated and why.
        log: its calls.
    """

    reports: tuple[Report, ...]
    refusals: tuple[str, ...]
    log: RunLog


_last: WeakKeyDictionary[object, Record] = WeakKeyDictionary()


def keep(wrapper: object, record: Record) -> None:
    """Keep a run's record as long as its model lives.

    Args:
        wrapper: what patches the model.
        record: of the run.
    """
    _last[wrapper] = record


def last_record(wrapper: object) -> Record | None:
    """The record of a patched model's last run; None before it.

    Args:
        wrapper: what patches the model.
    """
    return _last.get(wrapper)
