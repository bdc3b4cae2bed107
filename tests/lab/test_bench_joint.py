"""`skipstone bench joint`: the small model's errors and merged shares, at the multiply-adds of a full-size model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipstone.core.engine.layer_report import Entry
from skipstone.core.engine.meter import Meter
from skipstone.core.engine.report import Report
from skipstone.core.errors import RecipeError
from skipstone.core.measure.macs import count_macs
from skipstone.core.recipe.presets import preset
from skipstone.lab.bench.full_size import FullSize
from skipstone.lab.bench.joint import JointBench, at_share, run_joint_bench, tables
from skipstone.lab.bench.unet import UNetInputs, sd15_unet

BALANCED = preset("balanced").merge
assert BALANCED is not None


@pytest.fixture(scope="module")
def small() -> FullSize:
    return FullSize.sd15(64)


def report(kept: int, searched: bool, calls: int = 4, skipped: int = 2) -> Report:
    """Of a run whose finest layer kept so many of 64 tokens at the calls that ran, and a coarser one all of 16."""
    meter = Meter()
    for call in range(calls - skipped):
        meter.add(Entry("fine", call, 64, kept, 100, 70, "searched" if searched else "reused"))
        meter.add(Entry("coarse", call, 16, 16, 100, 100, "reused"))
    return replace(meter.finish(), calls=calls, calls_forecast=skipped)


def test_calls_alone_cost_what_runs(small: FullSize) -> None:
    assert small.share(report(64, searched=False), None) == 0.5


def test_merging_saves_what_the_fine_attentions_do_less_and_costs_its_search(small: FullSize) -> None:
    tokens, width = 64, 320
    attention = [4 * n * width * width + 2 * n * n * width for n in (tokens, tokens // 2)]
    found = small.share(report(32, searched=False), BALANCED)
    assert found == pytest.approx(0.5 * (1 - 5 * (attention[0] - attention[1]) / small.macs))
    tiles = 48 * 16 * width  # one tile of 8 x 8 tokens, cells of 2 x 2
    searching = small.share(report(32, searched=True), BALANCED)
    assert searching - found == pytest.approx(0.5 * 5 * tiles / small.macs)


def test_the_cost_is_what_the_real_network_counts(small: FullSize) -> None:
    with torch.device("meta"):
        unet = sd15_unet()
        dense = count_macs(
            lambda: unet(UNetInputs(unet, 1, 64).latent(), torch.tensor(1), UNetInputs(unet, 1, 64).context)
        )
    assert small.macs == dense and len(small.attention) == 5


def test_errors_at_a_cost_lie_on_a_line_between_two_numbers_of_calls() -> None:
    rows = [{"shares": [0.5], "errors": [0.01, 0.02]}, {"shares": [0.3], "errors": [0.03, 0.02]}]
    assert at_share(rows, 0.4) == pytest.approx(np.array([0.02, 0.02]))
    assert at_share(rows, 0.29) is None and at_share(rows, 0.51) is None and at_share([], 0.4) is None


def test_all_ways_are_measured_and_set_beside_calls_alone(tmp_path: Path) -> None:
    options = JointBench(
        steps=9, guidance=1.0, calls=(7, 4), thresholds=(0.8,), sizes=(1024,), noises=2, out=tmp_path / "joint.json"
    )
    found = run_joint_bench(options, lambda line: None, "skipstone bench joint")
    ways = [(row["name"], row["calls"]) for row in found["rows"]]
    assert ways == [("calls alone", 7), ("calls alone", 4), *[("merged from 0.8", n) for n in (7, 4, 9)]]
    by_way: dict[Any, dict[str, Any]] = dict(zip(ways, found["rows"], strict=True))
    alone, joint = by_way["calls alone", 7], by_way["merged from 0.8", 7]
    assert alone["shares"] == [7 / 9] and alone["merged"] == 0
    assert 0.1 < joint["merged"] < 0.9 and 0.5 < joint["shares"][0] / alone["shares"][0] < 1
    (table,) = tables(found)
    assert [bool(row[-1]) for row in table.rows if row[:2] == ("merged from 0.8", "7 of 9")] == [True]
    assert run_joint_bench(replace(options, load=options.out), lambda line: None) == found


@pytest.mark.parametrize(
    ("options", "line"),
    [({"noises": 1}, "2 noises or more"), ({"calls": (5,)}, "two --calls"), ({"sizes": (500,)}, "multiples of 64")],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        run_joint_bench(JointBench(**options))
