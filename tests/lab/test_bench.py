"""`skipstone bench tokens` compares like with like: equal counts, equal outputs, what is timed is what the row says."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tiny
import torch

from skipstone.core.errors import RecipeError, SkipstoneError
from skipstone.core.measure.macs import count
from skipstone.core.measure.timing import Timing, interleave, threads
from skipstone.core.tokens.grid import Grid, top_left
from skipstone.core.tokens.maps import counts_above
from skipstone.core.tokens.matching import best_pairs
from skipstone.lab.bench import overhead as wrapper
from skipstone.lab.bench import token_tables as bench_tables
from skipstone.lab.bench import token_ways as ways
from skipstone.lab.bench import unet as bench_unet
from skipstone.lab.bench.one_block import UNetModel, hollow, make_inputs, new_block, threshold_for, twin
from skipstone.lab.bench.tokens import TokenBench, run_token_bench
from skipstone.pipelines.accelerate import _handles_on, accelerate

SIZE = 128
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def block() -> torch.nn.Module:
    return new_block()


@pytest.fixture
def inputs():
    return make_inputs(SIZE)


def test_interleaving_runs_every_case_once_a_round_in_changing_order() -> None:
    seen: list[str] = []
    state = random.getstate()
    took = interleave({n: lambda n=n: seen.append(n) for n in "abc"}, runs=20)
    rounds = [tuple(seen[i : i + 3]) for i in range(0, len(seen), 3)]
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(rounds) == 21 and len(set(rounds)) > 3
    assert [len(t.seconds) for t in took.values()] == [20, 20, 20]
    assert random.getstate() == state


def test_times_are_minimum_median_and_paired_differences() -> None:
    ticks = iter(x for i in range(10) for x in (10.0 * i, 10.0 * i + i))
    timing = interleave({"only": lambda: None}, runs=4, clock=lambda: next(ticks))["only"]
    assert timing.seconds == (0.0, 1.0, 2.0, 3.0)
    assert (timing.minimum, timing.median) == (0.0, 1.5)
    assert Timing((5.0, 9.0, 3.0)).over(Timing((4.0, 5.0, 1.0))) == 2.0


def test_threads_come_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_fused_attention_computes_what_ldm_computes(block: torch.nn.Module, inputs) -> None:
    original = twin(block)
    for attention in (original.attn1, original.attn2):
        del attention.forward
    tokens = inputs.tokens
    with torch.no_grad():
        expected = original(tokens, context=inputs.context)
        torch.testing.assert_close(block(tokens, context=inputs.context), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("matching", ["dense", "local"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_the_imposed_threshold_merges_exactly_that_many(inputs, matching, share: float) -> None:
    merged = round(inputs.count * share)
    score, _ = best_pairs(inputs.tokens, top_left(Grid(16, 16, 1), (2, 2), inputs.x.device), matching)
    threshold = threshold_for(inputs, merged, matching)
    assert counts_above(score, threshold, bucket=1, shared=True, inclusive=True) == (merged, merged)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_ours_and_tomesd_give_one_output_at_equal_counts(block: torch.nn.Module, inputs, share: float) -> None:
    merged = round(inputs.count * share)
    threshold = threshold_for(inputs, merged, "dense")
    expected = ways.tomesd(block, inputs, merged)()
    ours = ways.ours(block, inputs, threshold, "every")()
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)
    assert torch.allclose(ways.ca_tome(block, inputs, threshold, step=0)(), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(ways.dense(block, inputs)(), expected, rtol=0, atol=1e-3)


def test_all_variants_pass_the_check(block: torch.nn.Module, inputs) -> None:
    found = ways.ways(block, inputs, 128)
    assert {v.calls for v in found} == {"ideal", "recompute", "reuse"} and len(found) == 7
    assert ways.check(found, 128, inputs) < 1e-5


def test_the_check_refuses_other_work_and_other_outputs(block: torch.nn.Module, inputs) -> None:
    idle = ways.Way("idle", "recompute", ways.dense(block, inputs))
    with pytest.raises(SkipstoneError, match="idle ran attention on"):
        ways.check([idle], 128, inputs)
    other = ways.Way("other", "recompute", ways.tomesd(block, make_inputs(SIZE, seed=9), 128))
    with pytest.raises(SkipstoneError, match="differ by"):
        ways.check([ways.Way("tomesd", "recompute", ways.tomesd(block, inputs, 128)), other], 128, inputs)


def test_recompute_rows_search_anew_and_reuse_rows_do_not(block: torch.nn.Module, inputs) -> None:
    found = {v.name: v for v in ways.ways(block, inputs, 192) if v.calls in ("recompute", "reuse")}
    old = {name: v.run() for name, v in found.items()}
    inputs.x.copy_(make_inputs(SIZE, seed=1).x)
    new = {name: v.run() for name, v in found.items()}
    fresh = new["tomesd"]
    for name in ("Skipstone dense", "ca-tome"):
        assert torch.allclose(new[name], fresh, rtol=0, atol=1e-5)
    reused = new["ca-tome reused"]
    assert torch.allclose(new["Skipstone reused"], reused, rtol=0, atol=1e-5)
    assert (reused - fresh).abs().max() > 0.01 and (old["tomesd"] - fresh).abs().max() > 0.01


def test_merging_takes_fewer_operations_than_its_peers(block: torch.nn.Module, inputs) -> None:
    """As many kernels fewer are launched on a GPU, where they cost more than their arithmetic."""
    found = ways.ways(block, inputs, 128)
    ways.check(found, 128, inputs)  # runs all once, so that what is kept between runs is there
    ops = {way.name: count(way.run).ops for way in found}
    dense = count(ways.dense(block, inputs)).ops
    assert dense < ops["Skipstone dense"] < ops["tomesd"]
    assert ops["Skipstone local"] < ops["tomesd"] + 2
    assert ops["Skipstone reused"] - dense <= (ops["ca-tome reused"] - dense) / 2


def test_twins_share_weights_but_no_patches(block: torch.nn.Module) -> None:
    root = UNetModel([block])
    copied = twin(root)
    with accelerate(copied, "ca_tome"):
        assert not tiny.hooked(root) and tiny.hooked(copied)
    assert all(a is b for a, b in zip(root.parameters(), copied.parameters(), strict=True))


def test_a_hollow_block_keeps_the_merging_and_drops_the_work(block: torch.nn.Module, inputs) -> None:
    bare = hollow(block)
    context = inputs.context
    tokens = inputs.tokens
    first = tokens + bare.norm1(tokens)
    second = first + bare.norm2(first)
    assert torch.equal(bare(tokens, context=context), second + bare.norm3(second))
    assert not torch.equal(ways.tomesd(bare, inputs, 128)(), bare(tokens, context=context))


def test_the_bench_writes_json_and_fills_the_marked_section(tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Above\n\n<!-- bench tokens -->\nold\n<!-- end of bench tokens -->\n\nbelow\n")
    out = tmp_path / "new" / "bench.json"
    run_token_bench(TokenBench(sizes=(64,), fractions=(0.5,), runs=(2,), out=out, markdown=page), lambda line: None)
    result = json.loads(out.read_text())
    (measured,) = result["blocks"]
    assert (measured["tokens"], measured["merged"], measured["runs"]) == (64, 32, 2)
    assert [r["name"] for r in measured["rows"]][:2] == ["dense", "ideal"] and len(measured["rows"]) == 8
    assert all(0 < r["min_ms"] <= r["median_ms"] for r in measured["rows"])
    assert result["wrapper"]["neutral_overrides"] == 0 and result["machine"]["threads"] == 1
    text = page.read_text()
    assert text.startswith("# Above\n") and text.endswith("\nbelow\n") and "old" not in text
    assert "| Skipstone reused |" in text and "64 px (64 tokens), 50% merged, float32, rounds: 2" in text
    capsys.readouterr()
    run_token_bench(TokenBench(load=out, markdown=page), lambda line: None)
    assert page.read_text() == text and "Skipstone reused" in capsys.readouterr().out


def test_savings_compare_with_the_best_peer_in_calls_of_that_kind() -> None:
    rows = [
        {"name": "Skipstone dense", "calls": "recompute", "merging_ms": 30.0},
        {"name": "Skipstone reused", "calls": "reuse", "merging_ms": 2.0},
        {"name": "tomesd", "calls": "recompute", "merging_ms": 40.0},
        {"name": "ca-tome", "calls": "recompute", "merging_ms": 50.0},
        {"name": "ca-tome reused", "calls": "reuse", "merging_ms": 10.0},
    ]
    best = [bench_tables.best_peer(row, rows, "merging_ms") for row in rows[:2]]
    assert [b and b["name"] for b in best] == ["tomesd", "ca-tome reused"]
    assert [bench_tables._saving(row, rows, "merging_ms") for row in rows[:3]] == ["-25%", "-80%", ""]


def test_the_documentation_has_a_place_for_the_tables() -> None:
    text = (ROOT / "docs" / "benchmarks" / "tokens.md").read_text(encoding="utf-8")
    begin, end = bench_tables.TOKENS.markers
    assert text.count(begin) == 1 and text.index(begin) < text.index(end)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sizes": (500,)}, "multiples of 8"),
        ({"fractions": (0.8,)}, r"\(0, 0.75\]"),
        ({"runs": (3, 4)}, "one for each of the sizes"),
        ({"runs": (0,)}, "from 1 on"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        run_token_bench(TokenBench(**options))


def test_files_that_are_no_figures_and_pages_without_markers_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text("{}")
    with pytest.raises(RecipeError, match="no figures of 'bench tokens'"):
        run_token_bench(TokenBench(load=file))
    with pytest.raises(RecipeError, match="has no lines"):
        run_token_bench(TokenBench(markdown=file))


def test_the_whole_unet_merges_half_of_its_finest_tokens() -> None:
    case = tiny.diffusers_unet()
    result = bench_unet.end_to_end(128, 1, lambda line: None, make=lambda: case.model)
    assert {r["name"] for r in result["rows"]} == {"dense", *bench_unet._CALLS, "tomesd 0.5"}
    assert result["rows"][0]["speedup"] == 1.0 and not tiny.hooked(case.model)
    searched, cond = {}, case.cond()
    for name, network in bench_unet._networks(case.model).items():
        for t in (900.0, 600.0, 300.0):
            case.call(network, case.latent(), torch.tensor(t), cond)
        for handle in _handles_on(network):
            assert handle.report().merged_share == 0.5
            searched[name] = (handle.report().searched, handle.report().reused)
    assert searched == {"Skipstone 50 %, pairs searched": (9, 0), "Skipstone 50 %, pairs reused": (3, 6)}


def test_neutral_settings_install_nothing_and_the_bracket_leaves_nothing() -> None:
    root = UNetModel([new_block(16, 2, 8)])
    before = tiny.snapshot(root)
    assert wrapper.neutral_overrides(root) == 0
    wrapper.bracket_cost(root, loops=2, runs=1)
    wrapper.idle_cost(root, runs=1)
    assert tiny.snapshot(root) == before
    patches = wrapper._patches(root)
    with accelerate(root, "ca_tome"):
        assert wrapper._patches(root) == patches + 2
