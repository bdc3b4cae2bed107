"""What each call of a run did: the log, the text during the run, the report node and its plot."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from comfy_models import HEUN, MERGE, SKIP, network, patch, patcher, said, sample, server
from doubles import comfy

from skipstone.core.engine.report import Report
from skipstone.core.recipe.auto import Auto
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe

__all__ = ["network", "patcher", "server"]

FIVE = Recipe.of([CallSkip(keys=(0, 1, 4, 7, 9))])


def log_of(model: comfy.ModelPatcher) -> Any:
    from skipstone.nodes.patch import record_of

    return record_of(model).log


def reported(model: comfy.ModelPatcher) -> Any:
    from skipstone.nodes.report import SkipstoneReport

    return SkipstoneReport.ran("9", model=model, after=None)


@pytest.fixture(params=[0.5])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, server: comfy.PromptServer) -> None:
    """Every look at the clock is so many seconds later, by default half a second."""
    from skipstone.core.engine import run_log
    from skipstone.nodes import messages

    times = itertools.count(0, request.param)
    monkeypatch.setattr(messages, "TIMED", 1.0)
    for module in (run_log, messages):
        monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))


# the log


def test_forecast_calls_are_told_from_those_that_ran(patcher: comfy.ModelPatcher) -> None:
    model = patch(patcher, FIVE)
    sample(model)
    runs = [entry.ran for entry in log_of(model).calls]
    assert [call for call, ran in enumerate(runs) if ran == "full"] == [0, 1, 4, 7, 9] and set(runs) == {
        "full",
        "forecast",
    }


@pytest.mark.parametrize("split", [False, True])
def test_blocks_are_counted_call_by_call(patcher: comfy.ModelPatcher, split: bool) -> None:
    model = patch(patcher, SKIP)
    sample(model, split=split)
    calls = log_of(model).calls
    assert [entry.ran for entry in calls] == (["full", "partly", "partly"] * 4)[:10]
    assert 0 < calls[1].work == calls[2].work < calls[0].work == 1


def test_merged_tokens_are_counted_call_by_call(patcher: comfy.ModelPatcher) -> None:
    model = patch(patcher, MERGE)
    sample(model, sampler=HEUN)
    calls = log_of(model).calls
    assert len(calls) == 10 and all(0 < entry.merged < 1 and entry.ran == "partly" for entry in calls)


def test_both_floors_share_one_log(patcher: comfy.ModelPatcher) -> None:
    model = patch(patch(patcher, BlockSkip(rule="interval", every=2), 1), FIVE, 2)
    sample(model)
    runs = [entry.ran for entry in log_of(model).calls]
    assert runs.count("forecast") == 5 and runs[:2] == ["full", "partly"] and len(runs) == 10


@pytest.mark.parametrize("below", [(), (MERGE,)], ids=["alone", "merged"])
@pytest.mark.parametrize("split", [False, True])
def test_errors_are_those_of_calls_that_ran_after_forecasts_and_bytes_of_what_is_held(
    patcher: comfy.ModelPatcher, below: tuple[Recipe, ...], split: bool
) -> None:
    model = patcher
    for method in (*below, FIVE):
        model = patch(model, method)
    sample(model, split=split)
    calls = log_of(model).calls
    assert [call for call, entry in enumerate(calls) if entry.error is not None] == [4, 7, 9]
    assert all(0 < entry.error < 1 for entry in calls if entry.error is not None)
    two, latent = 2 * 4 * 16 * 16 * 4, 4 * 16 * 16 * 4
    assert all(entry.held >= two for entry in calls) and all(entry.held % latent == 0 for entry in calls if not below)


def test_a_steps_two_evaluations_are_two_calls_of_the_log_and_one_has_the_error(patcher: comfy.ModelPatcher) -> None:
    model = patch(patcher, FIVE)
    sample(model, sampler=HEUN)
    calls = log_of(model).calls
    after = [n for n in range(1, len(calls)) if calls[n].ran == "full" and calls[n - 1].ran == "forecast"]
    assert [call for call, entry in enumerate(calls) if entry.error is not None] == after and len(after) >= 2


def test_the_plot_has_a_row_for_each_thing_that_is_known(patcher: comfy.ModelPatcher) -> None:
    from skipstone.core.engine.run_plot import rows

    model = patch(patcher, FIVE)
    sample(model)
    error, held = rows(log_of(model).calls)
    assert error.caption.startswith("error of the forecast, compared where the model ran: up to 0.")
    assert [value is None for value in error.values] == [call not in (4, 7, 9) for call in range(10)]
    assert held.caption == "held: up to 0.0 MiB" and all(held.values)
    merged = patch(patcher, MERGE)
    sample(merged)
    captions = [row.caption for row in rows(log_of(merged).calls)]
    assert captions[0].startswith("tokens merged or pruned: up to ") and len(captions) == 2
    assert reported(model).args[1].shape[1] == reported(merged).args[1].shape[1] == 76 + 240 + 2 * 62 + 84


def test_each_run_has_a_log_of_its_own_and_models_without_have_none(patcher: comfy.ModelPatcher) -> None:
    from skipstone.nodes.patch import record_of

    model = patch(patcher, FIVE)
    assert record_of(patcher) is None and record_of(model) is None
    sample(model)
    first = log_of(model)
    sample(model, steps=12)
    assert (len(first.calls), len(log_of(model.clone()).calls)) == (10, 12)


def test_seconds_saved_are_those_of_full_calls_without_the_first(server: comfy.PromptServer) -> None:
    from skipstone.core.engine.run_log import CallEntry, RunLog

    def run(*times: float, forecast: tuple[int, ...] = ()) -> RunLog:
        return RunLog([CallEntry(0.0, time, place in forecast) for place, time in enumerate(times)])

    assert run(9.0, 1.0, 0.1, 1.0, 0.1, forecast=(2, 4)).seconds_saved == pytest.approx(1.8)
    assert run(9.0, 1.0, forecast=(1,)).seconds_saved == 8.0
    assert run(9.0, 1.0, 0.1, 1.0, 0.1, forecast=(2, 4)).seconds_in_full == pytest.approx(13.0)
    assert run(1.0, forecast=(0,)).seconds_in_full == 0.0
    assert run(1.0, 1.0).seconds_saved == 0 and run(1.0, 2.0, 1.0, forecast=(1,)).seconds_saved == 0.0


# text


def test_the_gain_is_one_line_without_minus_nothing(server: comfy.PromptServer) -> None:
    from skipstone.core.engine.run_log import CallEntry, RunLog, gain

    log = RunLog([CallEntry(0.0, 0.5, forecast) for forecast in (False, False, True)])
    assert gain(Report(calls=20, calls_forecast=9), log) == "1.82x faster in multiply-adds, 1.5 s"
    log.calls[2].seconds = 0.0
    assert gain(Report(calls=3), RunLog([CallEntry(0.0, 2.0)])) == "2.0 s"
    blocks = Report(calls=4, calls_forecast=2, block_macs_run=50, block_macs_all=100)
    assert blocks.speedup == 4.0 and Report().speedup is None


def test_during_a_run_the_node_shows_call_state_and_times(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, clock: None
) -> None:
    sample(patch(patcher, FIVE))
    shown = [text.replace("\n", " ") for node, text in server.texts if node == "7"]
    first, *later = shown[:-1]
    assert first == "call 1 of 10: full;" and len(later) >= 4
    assert all(re.fullmatch(r"call \d+ of 10: (full|forecast); \d\.\d\d s a call.*;", text) for text in later)
    assert re.match(r"2\.00x faster in multiply-adds, \d+\.\d s; ran 5 of 10 calls", shown[-1])


@pytest.mark.parametrize("clock", [0.001], indirect=True)
def test_short_runs_show_no_times(patcher: comfy.ModelPatcher, server: comfy.PromptServer, clock: None) -> None:
    sample(patch(patcher, FIVE))
    assert said(server, "7").startswith("ran 5 of 10 calls") and len(server.texts) == 1


def test_the_error_is_shown_beside_the_one_that_is_allowed_during_the_run_and_after_it(
    server: comfy.PromptServer,
) -> None:
    from skipstone.core.engine.run_log import CallEntry, RunLog
    from skipstone.nodes.messages import node_text, progress

    log = RunLog([CallEntry(0.0, 0.4), CallEntry(0.4)])
    saving = RunLog([CallEntry(0.0, 4.0), CallEntry(4.0, 0.0, True), CallEntry(4.0, 0.5, True), CallEntry(4.5)])
    assert progress(saving, None) == "call 4: full;\n1.50 s a call, about 3.5 s saved so far;"
    assert progress(RunLog([CallEntry(0.0)]), 28) == "call 1 of 28: full;", "no time is known yet"
    report = Report(calls=28, calls_forecast=17, estimated_error=0.021, allowed_error=0.03)
    error = "estimated error 0.021 of 0.030"
    assert progress(log, 28, report.error_text) == f"call 2 of 28: full;\n0.40 s a call;\n{error};"
    assert f"{error}: 90% of pictures stay under it by this profile;" in node_text(report).replace("\n", " ")
    assert Report(estimated_error=0.021).error_text == "estimated error 0.021" and Report().error_text == ""


# the node


def test_the_node_reports_the_last_run_in_text_and_picture(patcher: comfy.ModelPatcher) -> None:
    model = patch(patch(patcher, MERGE, 1), FIVE, 2)
    sample(model)
    text, plot, seconds, in_full, recipe = reported(model).args
    assert "ran 5 of 10 calls, forecast 5" in text and "merged" in text and "-0" not in text
    assert plot.shape[0] == 1 and plot.shape[2:] == (960, 3) and plot.std() > 0.05
    assert reported(model).ui["text"] == [text]
    assert seconds == log_of(model).seconds > 0
    assert in_full == log_of(model).seconds_in_full == 0.0, "tokens were merged at each call that ran"
    assert recipe.merge == MERGE.merge and recipe.calls.keys == (0, 1, 4, 7, 9)


def test_the_calls_that_auto_chose_are_a_recipe_after_the_run_and_its_settings_before(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    from skipstone.nodes.auto import SkipstoneAuto
    from skipstone.nodes.recipe_saver import SkipstoneRecipeSaver

    model, settings = SkipstoneAuto.ran("5", model=patcher, level="fast").args
    assert settings == Recipe(auto=Auto(speedup=2.5)) == reported(model).args[4]
    sample(model, steps=20)
    ran = reported(model).args[4]
    assert ran.auto is None and len(ran.calls.keys) == 8
    SkipstoneRecipeSaver.run("8", model=model, filename_prefix="ran", recipe=ran)
    assert Recipe.load(tmp_path / "output/skipstone_recipes/ran_00001_.json") == ran
    assert SkipstoneAuto.ran("5", model=patcher, level="custom", speedup=1.0).args[1] == Recipe()
    assert SkipstoneAuto.ran("5", model=patcher, level="fast", profile_file="lost").args == (patcher, Recipe())


def test_before_a_run_and_without_skipstone_the_node_says_so(patcher: comfy.ModelPatcher) -> None:
    for model in (patcher, patch(patcher, FIVE)):
        assert reported(model).args[0].startswith("no run yet: connect the model")


def test_a_refused_run_is_reported_with_its_reason(patcher: comfy.ModelPatcher) -> None:
    model = patch(patcher, Recipe.of([CallSkip(keys=(0, 99))]))
    sample(model)
    text = reported(model).args[0]
    assert text.startswith("nothing was accelerated, ") and "call skipping unaccelerated" in text


def test_the_page_keeps_line_breaks_between_facts_alone(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    from skipstone.nodes.messages import show_on_node

    show_on_node("ran 5 of 10 calls, forecast 5\n(line on eps);\nno profile;", 7)
    assert server.sent == ["ran 5 of 10 calls, forecast 5\n(line on eps);  \nno profile;"]
