"""`skipstone bench blocks`: each way runs what its name says, and the figures belong together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from skipstone.core.errors import RecipeError
from skipstone.core.measure.macs import count_macs
from skipstone.lab.bench import blocks as bench
from skipstone.lab.bench.blocks import BlockBench, run_block_bench, ways
from skipstone.lab.bench.real_blocks import real_block


@pytest.mark.parametrize(("model", "size", "frames", "text"), [("flux", 64, 1, 512), ("qwen_image", 64, 1, 128)])
def test_half_of_the_pictures_keys_leave_the_two_products(model: Any, size: int, frames: int, text: int) -> None:
    block = real_block(model, size, frames, channels=32)
    found = ways(block, ratios=(0.5,), threshold=1.0)
    dense, pruned, searching, merged = (
        count_macs(found[name]) for name in ("dense", "pruned 50%", "pruned 50%, searching", "merged from 1")
    )
    products = 2 * 24 * 32  # heads, channels of a head
    whole, half = block.tokens + text, block.tokens // 2 + text
    assert dense - pruned == products * whole * (whole - half)
    assert searching > pruned and merged == dense


def test_a_videos_block_runs_on_its_frames() -> None:
    block = real_block("wan_1.3b", 64, 9, channels=32)
    assert block.tokens == 3 * 4 * 7 and block.what == "64p, 9 frames"
    assert block.call(block.network, 900.0).shape == (1, 16, 3, 8, 14)


def test_its_figures_are_saved_and_shown_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "real_block", partial(real_block, channels=32))
    options = BlockBench(models=("qwen_image",), size=64, ratios=(0.5,), runs=1, out=tmp_path / "blocks.json")
    rows = run_block_bench(options)["rows"]
    assert rows[0]["way"] == "dense" and rows[0]["bound"] == 1
    for row in rows[1:]:
        assert row["reached"] == pytest.approx((1 - 1 / row["faster"]) / (1 - 1 / row["bound"]))
    assert run_block_bench(BlockBench(load=options.out))["rows"] == rows


def test_weights_and_global_randomness_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (real_block("flux", 64, channels=32) for _ in range(2))
    assert torch.equal(first.call(first.network, 9.0), second.call(second.network, 9.0))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("options", [{"ratios": (1.0,)}, {"runs": 0}, {"size": 0}])
def test_mistakes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        BlockBench(**options).check()
