"""The first call of a run proves the graph; a network that is not the one described runs dense, with one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.report import Report
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = [900.0, 700.0, 500.0, 300.0, 100.0]


class Shuffled(tiny.PaperDiT):
    """A DiT by its modules, that calls its blocks as `calls` wants it."""

    calls: Callable[[nn.ModuleList, Tensor, Tensor], Tensor]

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Latent [B, 4, H, W] -> [B, 8, H, W]."""
        h, w = x.shape[2] // 2, x.shape[3] // 2
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = type(self).calls(self.blocks, tokens, self.time(t[:, None] / 1000) + self.label(y))
        return nn.functional.pixel_shuffle(self.head(tokens).transpose(1, 2).unflatten(2, (h, w)), 2)


def twice(blocks: nn.ModuleList, x: Tensor, c: Tensor) -> Tensor:
    return blocks[1](blocks[0](blocks[0](x, c), c), c)


def one_never(blocks: nn.ModuleList, x: Tensor, c: Tensor) -> Tensor:
    return blocks[0](x, c)


def backwards(blocks: nn.ModuleList, x: Tensor, c: Tensor) -> Tensor:
    return blocks[0](blocks[1](x, c), c)


def packed(blocks: nn.ModuleList, x: Tensor, c: Tensor) -> Tensor:
    for block in blocks:
        x = block(x.flatten(0, 1)[None], c[:1]).view_as(x)
    return x


CALLS = {"times": twice, "0 times": one_never, "out of order": backwards, "no tensor of 2 rows": packed}


def network(calls: Callable[..., Tensor]) -> tiny.Case:
    model = type("DiT", (Shuffled,), {"calls": staticmethod(calls)})()
    return tiny.Case("odd", tiny.randomise(model), lambda m, x, t, c: m(x, t, c), by_class=True)


def run(case: tiny.Case, recipe: Any) -> tuple[Tensor, Report]:
    """A run's result and report."""
    with accelerate(case.model, recipe) as handle:
        handle.begin(STEPS)
        return case.sample(STEPS), handle.end()


def declined(case: tiny.Case, caching: Any) -> str:
    """Why a run was dense, after checking that it was."""
    dense, before = case.sample(STEPS), tiny.snapshot(case.model)
    picture, report = run(case, BlockSkip(every=2, caching=caching))
    assert torch.equal(picture, dense)
    assert tiny.snapshot(case.model) == before
    ((reason, what),) = report.declined.items()
    assert what == ["block skipping"] and len(reason) < 250 and "\n" not in reason
    assert report.idle and report.blocks == 0
    return reason


@pytest.mark.parametrize("said", CALLS)
def test_outputs_are_not_cached_in_a_network_that_runs_its_blocks_otherwise(said: str) -> None:
    assert said in declined(network(CALLS[said]), "output")


@pytest.mark.parametrize("caching", ["branch", "difference"])
def test_rows_that_are_no_samples_are_declined(caching: Any) -> None:
    assert "no tensor of 2 rows" in declined(network(packed), caching)


@pytest.mark.parametrize(
    ("calls", "caching", "odd", "fine"),
    [
        (calls, caching, odd, 1 - odd)
        for calls, odd in ((twice, 0), (one_never, 1))
        for caching in ("branch", "difference")
    ],
)
def test_what_a_block_adds_is_cached_unless_it_runs_several_times(
    calls: Any, caching: Any, odd: int, fine: int
) -> None:
    _, report = run(network(calls), BlockSkip(rule="interval", every=2, caching=caching))
    (note,) = (line for line in report.notes if line.startswith("runs at every call because it ran"))
    assert f"blocks.{odd}" in note and f"blocks.{fine}" not in note
    assert report.blocks_reused > 0


@pytest.mark.parametrize("caching", ["branch", "difference"])
def test_what_a_block_adds_does_not_depend_on_their_order(caching: Any) -> None:
    _, report = run(network(backwards), BlockSkip(every=2, caching=caching))
    assert report.declined == {} and report.blocks_reused > 0


def test_merging_beside_it_is_served_all_the_same() -> None:
    case, skip = network(backwards), BlockSkip(every=2, caching="output")
    _, report = run(case, Recipe(merge=TokenMerge(threshold=-1, bucket=1, max_downsample=8), skip=skip))
    assert report.served == 2 and list(report.declined.values()) == [["block skipping"]]


def test_the_next_run_is_judged_by_its_own_first_call() -> None:
    case = tiny.paper_dit()
    first, block = case.model.blocks[0], case.model.blocks[1]  # type: ignore[index]
    with accelerate(case.model, BlockSkip(every=2, caching="output")) as handle:
        handle.begin(STEPS)
        repeat = block.register_forward_hook(lambda m, args, out: first(*args) * 0 + out)
        case.sample(STEPS)
        assert handle.end().idle
        repeat.remove()
        handle.begin(STEPS)
        case.sample(STEPS)
        assert handle.end().blocks_reused > 0


def test_every_family_stands_the_proof(case: tiny.Case) -> None:
    _, report = run(case, BlockSkip(every=2))
    assert report.declined == {} and report.blocks_reused > 0
