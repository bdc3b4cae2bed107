"""In a planned run a block is entered by block skipping only where it keeps, reuses or leaves out something."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny

from skipstone.core.engine.block_rest import rest
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import even_timesteps
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = list(even_timesteps(6))


def entered(case: tiny.Case, skip: BlockSkip) -> tuple[list[set[str]], Any]:
    """For each call, the blocks and stages whose `forward` is overridden while the network runs; and the report."""
    graph, found = recognise(case.model).graph(case.model), list[set[str]]()
    modules = [(block.name, block.module) for block in graph.blocks] + [
        ("stage", stage.module) for stage in graph.stages
    ]
    first = graph.blocks[0].module
    inner = type(first).forward

    def look(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is first:  # it runs in full calls
            found.append({name for name, module in modules if "forward" in vars(module)})
        return inner(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, accelerate(case.model, skip) as handle:
        patch.setattr(type(first), "forward", look)
        handle.begin(STEPS)
        case.sample(STEPS)
        return found, handle.end()


def test_blocks_that_just_run_are_left_alone(unet: tiny.Case) -> None:
    count = len(recognise(unet.model).graph(unet.model))
    calls, report = entered(unet, BlockSkip(every=2))  # DeepCache's rule: one block is kept
    whole, later = calls[0], calls[1:]
    assert len(whole) >= count  # the first call watches all blocks
    assert later and all(len(names) < 3 for names in later)
    assert report.blocks == count * len(STEPS)


def test_unseen_blocks_are_counted(case: tiny.Case) -> None:
    _, report = entered(case, BlockSkip(rule="interval", every=3))
    assert report.blocks == len(recognise(case.model).graph(case.model)) * len(STEPS)
    share = report.block_macs_run / report.block_macs_all
    assert 1 / 3 <= share <= 0.7


def test_a_block_that_is_kept_or_unknown_is_entered() -> None:
    class Silent:
        idle = False

    graph = type("Graph", (), {"stages": ()})()
    overrides: Any = [Silent() for _ in range(4)]
    states, kept = [2, 2, 1, 0], np.array([False, True, False, False])
    assert rest(overrides, graph, states, kept, [], known=lambda number: True) == [0]
    assert [one.idle for one in overrides] == [True, False, False, False]
    assert rest(overrides, graph, states, kept, [], known=lambda number: False) == []


def test_layers_too_coarse_to_merge_are_entered_once(unet: tiny.Case) -> None:
    def overridden() -> int:
        return sum("forward" in vars(m) for m in unet.model.modules()) - ("forward" in vars(unet.model))

    counts = list[int]()
    with accelerate(unet.model, TokenMerge(threshold=-1.0, max_downsample=1, bucket=1)) as handle:
        handle.begin(STEPS)
        unet.model.register_forward_pre_hook(lambda module, args: counts.append(overridden()))
        unet.sample(STEPS)
        report = handle.end()
    assert counts[0] > counts[1] == counts[-1] == 2 * len(report.layers)
    assert any("coarser" in reason for reason in report.declined)
