"""`skipstone search` writes files that load and run, repeats, goes on, and says in one line what is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skipstone.cli import main as cli
from skipstone.cli import search as command
from skipstone.cli.search import PlotSearch, Search, plot_search, run_search
from skipstone.core.calibrate.search import report
from skipstone.core.calibrate.search.evaluator import Evaluator
from skipstone.core.calibrate.search.metrics import metric
from skipstone.core.errors import RecipeError
from skipstone.core.recipe.recipe import Recipe
from skipstone.lab.demo_models.loading import load_model
from skipstone.pipelines.pictures import PipelinePictures

pytest.importorskip("optuna")

CLASSES = ("0", "3")


@pytest.fixture(scope="module")
def loads(pipe: Any) -> Iterator[None]:
    """The command takes our pipeline for any model, and draws few controls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_model", lambda *args: pipe)
        patch.setattr(command, "INTERVALS", (2, 5))
        patch.setattr(command, "DATO", ("dato_coco", "dato_d"))
        patch.setattr(command, "FEWER", (0.4,))
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plot and no controls: they take longer than a few trials."""
    monkeypatch.setattr(report, "plot", lambda *_: None)
    for controls in ("INTERVALS", "DATO", "FEWER"):
        monkeypatch.setattr(command, controls, ())


def small_search(out: Path, **changed: Any) -> Search:
    """Options of a search that takes seconds."""
    options = Search("small", steps=5, trials=9, population=4, pictures=2, check=1, keep=3, prompts=CLASSES, out=out)
    return dataclasses.replace(options, **changed)


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture(scope="module")
def searched(loads: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished search, which tests only read."""
    folder = tmp_path_factory.mktemp("search")
    return folder, run_search(small_search(folder), quiet, "skipstone search small")


def test_a_search_writes_figures_plot_and_recipes_that_run(
    searched: tuple[Path, dict[str, Any]], pipe: Any, evaluator: Evaluator, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = searched
    assert json.loads((folder / "search.json").read_text()) == result
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")
    assert result["command"] == "skipstone search small" and len(result["tried"]) == 9
    found = [row for row in result["rows"] if row["kind"] == "found"]
    assert 2 <= len(found) <= 3
    samples = evaluator.samples
    own = Evaluator(PipelinePictures(pipe, dataclasses.replace(samples, seed=1000)), metric("rel_l2"))
    other = Evaluator(PipelinePictures(pipe, dataclasses.replace(samples, seed=1002, count=1)), metric("rel_l2"))
    for row in found:
        recipe = Recipe.load(folder / row["file"])
        assert recipe.to_dict() == row["recipe"]
        assert "5 steps of small" in recipe.name and f"{row['cost']:.1%} of dense" in recipe.name
        assert (row["error"], row["cost"]) == (min(1.0, own(recipe).error), own(recipe).macs)
        assert row["check_error"] == other(recipe).error
    errors = [point["error"] for point in result["front"]]
    assert errors == sorted(errors, reverse=True)


def test_dense_fewer_steps_deepcache_and_presets_stand_beside(searched: tuple[Path, dict[str, Any]]) -> None:
    rows = {row["name"]: row for row in searched[1]["rows"]}
    assert rows["dense"]["error"] == 0 and rows["dense"]["cost"] == 1
    assert rows["dense, 2 steps"]["cost"] == 0.4
    assert {"DeepCache N=2", "DeepCache N=5", "dato_coco", "dato_d"} <= set(rows)
    assert all("check_error" in row for name, row in rows.items() if name != "dense")


@pytest.mark.usefixtures("undrawn")
def test_a_search_repeats_exactly_and_goes_on(
    loads: None, searched: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, first = searched
    again = run_search(small_search(tmp_path / "again", check=0), quiet)
    assert again["tried"] == first["tried"] and again["front"] == first["front"]
    shutil.copy(folder / "search.journal", tmp_path)
    more = run_search(small_search(tmp_path, trials=11, check=0), quiet)
    assert more["tried"][:9] == first["tried"] and len(more["tried"]) == 11
    with pytest.raises(RecipeError, match="name another --study"):
        run_search(small_search(tmp_path, trials=11, check=0, worst=0.5), quiet)


@pytest.mark.usefixtures("undrawn")
def test_limits_keep_trials_where_they_are_wanted(loads: None, tmp_path: Path) -> None:
    result = run_search(small_search(tmp_path, most_cost=0.5, worst=0.02, check=0), quiet)
    assert all(cost <= 0.5 and error <= 0.02 for cost, error in result["tried"])


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("changes", [{"stage": "ratios", "recipe": "dato_coco"}, {"stage": "joint", "tokens": "merge"}])
def test_other_stages_and_metrics_search_too(loads: None, tmp_path: Path, changes: dict[str, Any]) -> None:
    result = run_search(small_search(tmp_path, trials=4, check=0, metric="psnr", **changes), quiet)
    methods = {m["kind"] for row in result["rows"] if row["kind"] == "found" for m in row["recipe"]["methods"]}
    assert methods == {"block_skip", "token_prune" if changes["stage"] == "ratios" else "token_merge"}


@pytest.mark.usefixtures("undrawn")
def test_measured_time_may_be_the_cost(loads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(n * n for n in range(10, 10_000))
    monkeypatch.setattr("skipstone.core.calibrate.search.evaluator.perf_counter", lambda: next(ticks))
    result = run_search(small_search(tmp_path, cost="time", trials=3, check=0), quiet)
    assert {cost for cost, _ in result["tried"]} == {1.0, 25 / 21, 29 / 21}


def test_figures_are_shown_again_from_their_file(
    searched: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(searched[0] / "search.json", folder := tmp_path)
    plot_search(PlotSearch(folder))
    assert "depths 01" in capsys.readouterr().out
    assert (folder / "search.png").exists()
    (folder / "search.json").write_text("{}")
    with pytest.raises(RecipeError, match="holds no search"):
        plot_search(PlotSearch(folder))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 2}, "--steps of at least 3"),
        ({"trials": 0}, "--trials of 1"),
        ({"population": 1}, "--population of 2"),
        ({"pictures": 0}, "--pictures"),
        ({"check": -1}, "--check from 0 on"),
        ({"levels": (1, 1)}, "leave nothing to choose"),
        ({"levels": (-1, 1)}, "give two depth codes"),
        ({"most_cost": 0.0}, r"outside \(0, 1\]"),
        ({"metric": "fid"}, "no metric named"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    loads: None, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        run_search(small_search(tmp_path, **changed), quiet)
    assert "\n" not in str(error.value)


def test_the_command_line_knows_the_search(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "load_model", load_model)
    assert cli.main(["search", "no/such/model"]) == 2
    assert "no model at 'no/such/model'" in capsys.readouterr().err
    assert cli.main(["search", "plot", "no/such/folder"]) == 2
    assert "holds no search" in capsys.readouterr().err


def test_without_optuna_the_command_says_so(
    loads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match="needs optuna"):
        run_search(small_search(tmp_path), quiet)
