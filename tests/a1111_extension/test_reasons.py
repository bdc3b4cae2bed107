"""The reason that the user is given where a method did nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from doubles import a1111

from skipstone.core.engine.report import Report
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe


def told(report: Report) -> str:
    """In the infotext, of skipped calls."""
    from skipstone.a1111_extension.infotext import REFUSED
    from skipstone.a1111_extension.results import tell_done

    job = SimpleNamespace(comment=lambda text: None, extra_generation_params={})
    tell_done(job, Recipe.of([CallSkip(calls=4)]), report, "one pass")
    return str(job.extra_generation_params[REFUSED])


def test_a_refusal_gives_its_own_reason_without_notes_on_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    a1111.install(monkeypatch)
    notes = ["predicted cache peak: 3 MiB"]
    refused = Report(calls=9, notes=notes, declined={"the sampler chooses its own steps": ["call skipping"]})
    assert told(refused) == "did nothing: the sampler chooses its own steps"
    assert told(Report(calls=9, notes=notes)) == "did nothing: predicted cache peak: 3 MiB"
