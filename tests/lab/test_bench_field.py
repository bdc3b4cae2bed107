"""`skipstone bench field`: one loop for all ways, figures beside fewer steps, and runs that go on."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from skipstone.core.errors import RecipeError
from skipstone.core.measure import timing
from skipstone.core.measure.macs import Counted, count
from skipstone.lab.bench.field import caches, judge, measuring, peers, subject
from skipstone.lab.bench.field.bench import run_field_bench
from skipstone.lab.bench.field.measuring import Measuring
from skipstone.lab.bench.field.options import Cell, FieldBench
from skipstone.lab.bench.field.ours import AUTO
from skipstone.lab.bench.field.summary import aims, beside_fewer, fewer_at, front, ratio
from skipstone.lab.bench.field.tables import tables
from skipstone.lab.bench.field.way import DENSE, FEWER, Host, Way, by_recipe, draw, live_bytes, plain
from skipstone.pipelines.denoiser import denoiser_of

CELL = Cell("tiny", "ddim", 10, 1.0)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FieldBench]:
    """Options for a tiny DiT, a few ways, and nothing that takes long."""
    folder = tmp_path_factory.mktemp("field")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "load_model", lambda *given: tiny.dit_pipeline())
        subject._loaded.cache_clear()
        yield FieldBench(
            models=("tiny",), samplers=("ddim",), steps=(10,), guidance=(1.0,), noises=2, ode_steps=0, rounds=1,
            only=("Auto 2x", "DeepCache every 2"), work=folder / "work", html=folder / "page.html", out=folder / "field.json",
        )  # fmt: skip
    subject._loaded.cache_clear()


@pytest.fixture(scope="module")
def result(options: FieldBench) -> dict[str, Any]:
    """The figures."""
    return run_field_bench(options, lambda line: None, "skipstone bench field")


def test_each_way_is_a_row_or_a_line_with_the_reason(result: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in result["cells"][0]["rows"]}
    assert list(rows) == ["dense", "6 steps", "5 steps", "4 steps", "2 steps", "Auto 2x", "DeepCache every 2"]
    assert rows["DeepCache every 2"]["reason"] == "it serves U-Nets alone"
    auto, fewer = rows["Auto 2x"], rows["5 steps"]
    assert (auto["calls"], fewer["calls"]) == (5, 5)
    assert auto["share"] == fewer["share"] == 0.5
    assert len(auto["errors"]) == 2 and max(auto["errors"]) > 0
    assert auto["held"] > 0 == rows["dense"]["held"] and 0 < auto["skipped_ops"] < 30 < auto["ops"]
    assert all(row["seconds"] > 0 for row in rows.values() if "reason" not in row)


def test_in_brief_a_cell_is_a_line_for_each_speed_up(result: dict[str, Any]) -> None:
    refused = {"title": "other", "rows": [], "reason": "no such sampler"}
    aimed, absent = tables({**result, "cells": [*result["cells"], refused]}, brief=True)
    assert [row[:3] for row in aimed.rows] == [(CELL.title, f"{n}x", "Auto 2x") for n in ("1.5", "2")]
    assert absent.rows == (("all", "no such sampler", "other"),)
    assert [table.title for table in tables(result)][1] == CELL.title


def test_a_run_that_was_stopped_goes_on_where_it_was(
    result: dict[str, Any], options: FieldBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = options.work / f"{CELL.file}.json"
    whole = file.read_text()
    kept = json.loads(whole)
    lost = kept["rows"].pop()
    kept["machine"]["date"] = "2026-01-01"
    file.write_text(json.dumps(kept))
    drawn: list[str] = []
    monkeypatch.setattr(measuring, "draw", lambda *given, **more: pytest.fail("all times stand in the file"))
    once = Measuring._row
    monkeypatch.setattr(Measuring, "_row", lambda self, way: drawn.append(way.name) or once(self, way))
    again = run_field_bench(options, lambda line: None, "skipstone bench field")
    assert drawn == [lost["name"]] and again["machine"]["date"] == "2026-01-01"
    assert [cell["rows"] for cell in again["cells"]] == [cell["rows"] for cell in result["cells"]]


def test_rows_of_other_noises_are_not_mixed_in(result: dict[str, Any], options: FieldBench) -> None:
    with pytest.raises(RecipeError, match="holds a run with other options: remove it, or give another --work"):
        run_field_bench(replace(options, noises=3), lambda line: None)


def test_a_file_of_something_else_is_refused(options: FieldBench, tmp_path: Path) -> None:
    bench = Measuring(CELL, replace(options, work=tmp_path))
    bench.file.write_text("[]")
    with pytest.raises(RecipeError, match="holds no rows of this bench: remove it"):
        bench.rows(print)


def test_magcache_is_calibrated_on_the_model_with_one_ratio_for_each_call() -> None:
    denoiser = denoiser_of(tiny.dit_pipeline(), 6, 1.0)
    ratios = caches._mag_ratios(denoiser)
    assert len(ratios) == 6 and ratios[0] == 1.0 and all(ratio > 0 for ratio in ratios)


def test_a_package_that_fails_is_a_line(options: FieldBench) -> None:
    @contextmanager
    def broken(host: Host) -> Iterator[Any]:
        def predict(at: Any, call: int) -> torch.Tensor:
            raise IndexError("tuple index out of range\nand a second line")

        yield predict

    @contextmanager
    def absent(host: Host) -> Iterator[Any]:
        import no_such_package  # noqa: F401

        yield None

    bench = Measuring(CELL, options)
    assert bench._row(Way("a", "a", broken))["reason"] == "IndexError: tuple index out of range"
    assert bench._row(Way("b", "b", absent))["reason"] == "no_such_package is not installed"
    assert bench._row(Way("c", "c", plain))["reason"] == measuring.NOTHING


def test_the_page_holds_all_it_shows(result: dict[str, Any], options: FieldBench) -> None:
    page = options.html.read_text(encoding="utf-8")
    assert "<svg" in page and "Auto 2x" in page and "it serves U-Nets alone" in page
    svg = page[page.index("<svg") : page.index("</svg>")]
    rows = [row for row in result["cells"][0]["rows"] if "reason" not in row]
    named = {row["name"] for row in rows if f">{row['name']}<" in svg}
    assert named == set(front(rows)) < {row["name"] for row in rows}, "the plot names what is on the front"
    assert not any(outside in page for outside in ("<script", "<link", 'src="http'))


def test_what_is_installed_on_a_host_does_not_reach_the_model() -> None:
    denoiser = denoiser_of(tiny.dit_pipeline(), 10, 1.0)
    host = Host(denoiser)
    assert host.transformer is host.network is not denoiser.network and not hasattr(host, "unet")
    reference = draw(Way("dense", DENSE), denoiser, [0]).latents
    host.network.forward = None
    way = Way("Auto 2x", AUTO, by_recipe("2x"))
    assert not torch.equal(draw(way, denoiser, [0]).latents, reference)
    assert torch.equal(draw(Way("dense", DENSE), denoiser, [0]).latents, reference)


def test_a_forecast_of_hicache_runs_no_network_and_has_the_guided_output() -> None:
    pytest.importorskip("hicache_pp")
    way = next(way for way in peers.peers(8) if way.name == "hicache-pp hermite every 2")
    drawn = draw(way, denoiser_of(tiny.dit_pipeline(), 8, 3.0), [0])
    assert max(call.ops for call in drawn.calls if not call.macs) < 20
    assert [call.macs > 0 for call in drawn.calls] == [True, True, False, True, False, True, False, True]


def test_the_class_of_a_seed_is_the_one_that_is_drawn() -> None:
    denoiser = denoiser_of(tiny.dit_pipeline(), 4, 1.0)
    drawn = denoiser.begin(range(6)).cond["class_labels"].tolist()
    assert len(set(drawn)) > 1 and drawn == [denoiser.condition_of(seed) for seed in range(6)]


def _row(name: str, group: str, share: float, errors: list[float]) -> dict[str, Any]:
    return {"name": name, "group": group, "share": share, "errors": errors}


def test_fewer_steps_are_read_between_two_numbers_of_steps_and_not_below_the_fewest() -> None:
    rows = [_row("10 steps", FEWER, 0.5, [0.2, 0.4]), _row("5 steps", FEWER, 0.25, [0.4, 0.8])]
    assert fewer_at(rows, 0.375) == pytest.approx([0.3, 0.6])
    assert fewer_at(rows, 0.75) == pytest.approx([0.1, 0.2])
    assert fewer_at(rows, 0.2) is None
    found = beside_fewer(rows, _row("Auto", AUTO, 0.375, [0.15, 0.3]))
    assert found is not None and found.middle == pytest.approx(0.5) and found.verdict == "ahead"


def test_an_interval_is_paired_by_noise() -> None:
    errors = np.geomspace(0.01, 1.0, 32)
    paired = ratio(list(errors * 0.9), list(errors))
    shuffled = ratio(list(errors * 0.9), list(errors[::-1]))
    assert paired.verdict == "ahead" and paired.high - paired.low < 1e-9
    assert shuffled.verdict == "level" and shuffled.middle == pytest.approx(paired.middle)


def test_auto_is_held_against_the_best_rival_that_is_as_cheap() -> None:
    rows = [
        _row("dense", DENSE, 1.0, [0.0, 0.0]),
        _row("10 steps", FEWER, 0.5, [0.2, 0.2]),
        _row("Auto 2x", AUTO, 0.5, [0.1, 0.1]),
        _row("Auto 3x", AUTO, 0.33, [0.3, 0.3]),
        _row("near", "a", 0.54, [0.08, 0.08]),
        _row("dear", "a", 0.8, [0.01, 0.01]),
        {"name": "absent", "group": "b", "reason": "not installed"},
    ]
    found = {aim.target: aim for aim in aims(rows)}
    at = found[2.0]
    assert at.ours["name"] == "Auto 2x" and at.fewer is not None and at.fewer.middle == pytest.approx(0.5)
    assert at.rival is not None and at.rival["name"] == "near"
    assert at.against is not None and at.against.verdict == "behind"
    assert found[3.0].rival is None and found[3.0].fewer is None
    assert front(rows) == {"Auto 3x", "Auto 2x", "near", "dear"}


def test_a_quick_run_is_a_choice_of_all() -> None:
    quick = FieldBench(quick=True, samplers=("ddim", "unipc"), steps=(20, 50)).reduced()
    assert (quick.noises, quick.samplers, quick.steps, quick.rounds) == (8, ("ddim",), (20,), 0) and quick.only
    assert FieldBench().reduced() == FieldBench()
    assert [cell.sampler for cell in FieldBench(samplers=("ddim",)).cells()] == ["ddim", "ddim", "euler"]


def test_a_sampler_that_a_model_lacks_is_a_line(options: FieldBench) -> None:
    from skipstone.lab.bench.field.bench import measure

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "is_flow", lambda scheduler: True)
        (cell,) = measure(replace(options, samplers=("euler_a",)), said.append)["cells"]
    assert "no sampler 'euler_a' of flow models" in cell["reason"] and cell["rows"] == [] and len(said) == 1


def test_bytes_alive_count_each_storage_once() -> None:
    gc.collect()
    before = live_bytes(torch.device("cpu"))
    kept = torch.zeros(1000)
    views = [kept, kept[1:], kept.view(10, 100)]
    assert live_bytes(torch.device("cpu")) - before == 4000 and len(views) == 3


def test_tensors_without_memory_are_not_counted() -> None:
    """A compiler's fake tensors live on, and a figure must not depend on what was compiled before."""
    gc.collect()
    before = live_bytes(torch.device("cpu"))
    with FakeTensorMode():
        kept = [torch.zeros(1000), torch.zeros(1000, device="meta")]
    assert live_bytes(torch.device("cpu")) == before and len(kept) == 2


def test_views_and_empty_tensors_are_no_operations() -> None:
    x = torch.ones(2, 3)
    assert count(lambda: (torch.empty(3), x.view(6), x.T, x + 1, x @ x.T)) == Counted(macs=12, ops=2)


def test_times_on_cuda_are_those_of_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = now[0]

        def synchronize(self) -> None:
            pass

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = timing.clock_of(torch.device("cuda"))
    now[0] = 1500.0
    assert clock() == 1.5


def test_equal_pictures_are_at_no_distance_on_imagenet_features() -> None:
    if judge.missing():
        pytest.skip(judge.missing()[0])
    latents = torch.rand(2, 12, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    same, other = judge.judge(latents, latents, [0, 1]), judge.judge(latents.flip(0), latents)
    assert same.perceptual == [0.0, 0.0] and same.psnr_db == [100.0, 100.0]
    assert min(other.perceptual) > 0.05 and other.accuracy is None
    assert other.frechet_imagenet == pytest.approx(0.0, abs=1e-3), "the same pictures in another order"


def test_options_that_cannot_be_measured_are_refused() -> None:
    for given in ({"steps": (7,)}, {"noises": 1}, {"samplers": ("eulr",)}):
        with pytest.raises(RecipeError):
            FieldBench(**given).check()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
