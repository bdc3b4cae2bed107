"""Every pipeline that the README names, as the pipeline itself: neutral is exact, blocks run as planned, the rest is declined."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipelines import PIPELINES, Running
from skipstone.core.errors import ModelError
from skipstone.core.models import recognise
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

EVERY_2 = BlockSkip(rule="interval", every=2)
MERGES = [TokenMerge(threshold=-1.0, bucket=1, max_downsample=8), TokenPrune(ratio=0.5, max_downsample=8)]


@pytest.fixture(params=PIPELINES, scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """Each pipeline in turn."""
    yield PIPELINES[request.param]()


@pytest.fixture(scope="module")
def dense(running: Running) -> torch.Tensor:
    """What it draws without us."""
    return running()


def test_a_neutral_recipe_changes_no_bit(running: Running, dense: torch.Tensor) -> None:
    with accelerate(running.pipe, Recipe()):
        assert torch.equal(running(), dense)


def test_every_second_call_runs_no_block(running: Running, dense: torch.Tensor) -> None:
    """Of a run whose calls are known; blocks that the pipeline reads (SAG) run at every call."""
    graph = recognise(running.network).graph(running.network)
    always = running.always
    with accelerate(running.pipe, EVERY_2) as handle:
        picture, report = running(), handle.report()
    calls = running.calls
    assert report.planned and report.calls == calls
    full = -(-calls // 2)
    assert report.blocks_run == running.forwards * (full * len(graph) + (calls - full) * always)
    assert report.blocks == running.forwards * calls * len(graph)
    assert picture.isfinite().all() and 0 < (picture - dense).norm() < 0.9 * dense.norm()
    assert torch.equal(running(), dense)


@pytest.mark.parametrize("method", MERGES, ids=["merge", "prune"])
def test_merging_and_pruning_are_served_or_declined_in_one_line(
    running: Running, dense: torch.Tensor, method: TokenMerge | TokenPrune
) -> None:
    if not running.merges:
        with pytest.raises(ModelError) as refusal:
            accelerate(running.pipe, method)
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300
        return
    with accelerate(running.pipe, method) as handle:
        picture, report = running(), handle.report()
    assert report.planned and report.served > 0 and report.merged_share > 0.2
    assert picture.isfinite().all() and not torch.equal(picture, dense)
    assert all("\n" not in reason and len(reason) < 300 for reason in report.declined)
