"""`skipstone bench skips` compares runs that do the same work: equal outputs, equal multiply-adds, known bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from skipstone.core.errors import RecipeError, SkipstoneError
from skipstone.core.measure.macs import count_macs
from skipstone.core.measure.timing import Timing, interleave_runs
from skipstone.lab.bench import skip_ways
from skipstone.lab.bench import skips as bench_skips
from skipstone.lab.bench.figures import markdown
from skipstone.lab.bench.skip_ways import Walk, call_macs, held_bytes, ways
from skipstone.lab.bench.skips import SKIPS, SkipBench, measure, run_skip_bench
from skipstone.lab.bench.unet import UNetInputs

SMALL = SkipBench(size=64, calls=3, dato_calls=5, intervals=(3,), rounds=1)
ROOT = Path(__file__).parents[2]
NAMES = [
    "dense",
    "Skipstone, every 3",
    "deepcache, every 3",
    "Skipstone P_COCO, unpruned",
    "Skipstone P_COCO, pruned 0.4",
]


def small_unet() -> Any:
    """On torch's default device; three levels, one layer each."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(8, 16, 16),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=4,
            layers_per_block=1,
        ).eval()


def unet_with_numbers() -> Any:
    """Also where the bench asks for one without, whose operators are much slower than a small network's."""
    with torch.device("cpu"):
        return small_unet()


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return measure(SMALL, lambda line: None, "skipstone bench skips", unet_with_numbers)


def test_runs_advance_in_step_each_call_once_a_round_in_order() -> None:
    seen: list[tuple[str, int]] = []
    ticks = iter(range(1000))
    took = interleave_runs(
        {"long": 10, "short": 5}, lambda n, k: seen.append((n, k)), 2, clock=lambda: float(next(ticks))
    )
    assert {name: [len(t.seconds) for t in calls] for name, calls in took.items()} == {
        "long": [2] * 10,
        "short": [2] * 5,
    }
    for start in (0, 15):
        part = seen[start : start + 15]
        assert [k for n, k in part if n == "long"] == list(range(10))
        assert [k for n, k in part if n == "short"] == list(range(5))
        for place, (n, k) in enumerate(part):
            assert abs(place / 15 - k / {"long": 10, "short": 5}[n]) < 0.3
    assert seen[:15] != seen[15:]
    assert all(t.seconds == (1.0, 1.0) for t in took["long"])


def test_all_ways_are_measured_and_set_against_dense(result: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == NAMES and result["absent"] == []
    assert rows["dense"]["bound"] == 1.0 and rows["dense"]["times_faster"] == 1.0
    assert rows["dense"]["cache_bytes"] == 0
    ((_, macs, seconds),) = rows["dense"]["kinds"]
    for name, row in rows.items():
        calls = 5 if "P_COCO" in name else 3
        assert sum(count for count, _, _ in row["kinds"]) == row["calls"] == calls
        assert row["times_faster"] == pytest.approx(calls * seconds / row["seconds"])
        assert row["bound"] == pytest.approx(calls * macs / sum(count * cost for count, cost, _ in row["kinds"]))


def test_a_runs_time_is_the_sum_of_the_medians_of_its_kinds() -> None:
    way = ways(4, (), 1)[0]
    times = [Timing((8.0, 9.0)), Timing((1.0, 2.0)), Timing((3.0, 70.0)), Timing((7.0, 6.0))]
    row = bench_skips._row(way, times, [500, 40, 40, 500])
    assert row["kinds"] == [[2, 500, 7.5], [2, 40, 2.5]]
    assert row["seconds"] == 20.0 and row["seconds_as_run"] == (19 + 87) / 2


def test_the_rule_does_the_packages_work_with_its_output_and_less_memory(result: dict[str, Any]) -> None:
    dense, ours, package = result["rows"][:3]
    costs = [[(count, macs) for count, macs, _ in row["kinds"]] for row in (ours, package)]
    assert costs[0] == costs[1] and [count for count, _ in costs[0]] == [1, 2]
    assert costs[0][0][1] == dense["kinds"][0][1]
    assert ours["difference"] == 0.0
    assert 0 < ours["cache_bytes"] < package["cache_bytes"] / 5
    assert ours["over_peer"] == package["seconds"] / ours["seconds"]


def test_multiply_adds_without_numbers_are_those_of_the_real_run() -> None:
    unet = small_unet()
    with torch.device("meta"):
        bare = small_unet()
    _, ours, package, _, pruned = ways(2, (2,), 3)
    for way in (ours, package, pruned):
        walk = Walk(unet, way, UNetInputs(unet, 2, 64))
        real = [count_macs(lambda k=k, walk=walk: walk.call(k)) for k in range(way.calls)]
        assert call_macs(bare, way, UNetInputs(bare, 2, 64)) == real
    assert not tiny.hooked(unet)


def test_pruning_lowers_the_multiply_adds_of_the_calls_that_run(result: dict[str, Any]) -> None:
    unpruned, pruned = ([macs for _, macs, _ in row["kinds"]] for row in result["rows"][3:])
    assert max(pruned) < max(unpruned)


def test_held_bytes_count_shared_memory_once() -> None:
    base = torch.zeros(100)
    assert held_bytes({"a": (base, [base[:10]]), 3: base.clone(), "none": None}) == 2 * base.nbytes


def test_each_call_gets_a_latent_of_its_own_and_every_way_the_same() -> None:
    class Inputs(UNetInputs):
        seeds: list[int] = []  # noqa: RUF012

        def latent(self, seed: int = 0) -> torch.Tensor:
            self.seeds.append(seed)
            return super().latent(seed)

    unet = small_unet()
    for way in ways(3, (3,), 3):
        walk = Walk(unet, way, Inputs(unet, 1, 64))
        for k in range(3):
            walk.call(k)
    assert Inputs.seeds == [0, 1, 2] * 5
    first, again, other = (UNetInputs(unet, 1, 64).latent(seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_ways_that_do_other_work_are_told_apart() -> None:
    unet = small_unet()
    _, _, package, *_ = ways(3, (3,), 6)
    other = Walk(unet, ways(3, (2,), 6)[1], UNetInputs(unet, 2, 64))
    walk = Walk(unet, package, UNetInputs(unet, 2, 64))
    for k in range(3):
        other.call(k), walk.call(k)
    with pytest.raises(SkipstoneError, match="differ by"):
        bench_skips._difference(other, walk)


def test_figures_come_back_from_their_file_and_fill_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_skips, "measure", lambda *args: result)
    page, out = tmp_path / "page.md", tmp_path / "new" / "skips.json"
    page.write_text("above\n<!-- bench skips -->\nold\n<!-- end of bench skips -->\nbelow\n")
    run_skip_bench(SkipBench(out=out, markdown=page), lambda line: None)
    text = page.read_text()
    assert json.loads(out.read_text()) == result
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
    assert markdown(SKIPS, result) in text and "| Skipstone, every 3 | 1 x " in text
    capsys.readouterr()
    monkeypatch.setattr(bench_skips, "measure", lambda *args: pytest.fail("measured"))
    run_skip_bench(SkipBench(load=out, markdown=page), lambda line: None)
    assert page.read_text() == text and "deepcache, every 3" in capsys.readouterr().out


def test_the_processors_time_without_datos_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(bench_skips.time, "process_time", lambda: float(next(ticks)))
    found = measure(
        replace(SMALL, dato_calls=0, clock="processor"), lambda line: None, "skipstone bench skips", unet_with_numbers
    )
    assert [row["name"] for row in found["rows"]] == ["dense", "Skipstone, every 3", "deepcache, every 3"]
    assert {row["seconds"] for row in found["rows"]} == {3.0}
    assert "processor time" in SKIPS.tables(found)[0].title


def test_without_the_package_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skip_ways, "find_spec", lambda name: None)
    assert [way.name for way in ways(6, (3,), 6)] == [n for n in NAMES if not n.startswith("deepcache")]
    assert skip_ways.absent() == ["deepcache (not installed)"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"size": 500}, "multiple of 64"),
        ({"calls": 16}, "must divide the 16 calls"),
        ({"intervals": (1,)}, "must divide"),
        ({"rounds": 0}, "from 1 on"),
        ({"threads": 0}, "from 1 on"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        run_skip_bench(SkipBench(**options))


def test_the_documentation_has_a_place_for_the_table() -> None:
    text = (ROOT / "docs" / "benchmarks" / "blocks.md").read_text(encoding="utf-8")
    begin, end = SKIPS.markers
    assert text.count(begin) == 1 and text.index(begin) < text.index(end)
