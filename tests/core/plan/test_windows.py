"""Windows [start, end): the call at the very end of one is outside it, for tokens, blocks and calls, planned or not."""

from __future__ import annotations

import numpy as np
import pytest
from toys import Residual

from skipstone.core.plan.block_plan import BlockPlan
from skipstone.core.plan.call_plan import CallPlan
from skipstone.core.plan.liveness import State
from skipstone.core.plan.run import Horizon
from skipstone.core.plan.token_plan import TokenPlan
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.token_merge import TokenMerge

QUARTERS = (999.0, 749.25, 499.5, 249.75, 0.0)
"""Five calls at the positions 0, 1/4, 1/2, 3/4 and 1, exactly."""
WINDOWS = {(0.25, 0.75): [1, 2], (0.0, 0.5): [0, 1], (0.5, 0.5): [], (0.75, 1.0): [3, 4], (0.0, 0.25): [0]}


@pytest.mark.parametrize(("start", "end"), WINDOWS)
def test_tokens_are_merged_from_the_start_up_to_but_not_at_the_end(start: float, end: float) -> None:
    plan = TokenPlan(TokenMerge(start=start, end=end), Horizon(QUARTERS))
    assert [k for k, t in enumerate(QUARTERS) if plan.serves(t)] == WINDOWS[start, end]


@pytest.mark.parametrize(("start", "end"), WINDOWS)
@pytest.mark.parametrize("known", [True, False], ids=["planned", "unplanned"])
def test_blocks_are_skipped_from_the_start_up_to_but_not_at_the_end(start: float, end: float, known: bool) -> None:
    """The first call always runs whole."""
    graph = Residual().graph()
    settings = BlockSkip(rule="interval", every=9, start=start, end=end, last_full=False)
    plan = BlockPlan(settings, graph, "toy", Horizon(QUARTERS if known else None))
    rows = np.stack([plan.row(k, t)[0] for k, t in enumerate(QUARTERS)])
    skipped = np.flatnonzero((rows == State.REUSE).all(axis=1)).tolist()
    assert skipped == [k for k in WINDOWS[start, end] if k > 0]
    assert ((rows == State.RUN).all(axis=1) | (rows == State.REUSE).all(axis=1)).all()


@pytest.mark.parametrize(("start", "end"), WINDOWS)
def test_calls_are_skipped_from_the_start_up_to_but_not_at_the_end(start: float, end: float) -> None:
    """The first call always runs."""
    plan = CallPlan(CallSkip(keys=(0,), tail=0, start=start, end=end), Horizon(QUARTERS))
    assert [k for k in range(5) if not plan.runs(k)] == [k for k in WINDOWS[start, end] if k > 0]


def test_a_step_of_two_calls_is_where_it_begins() -> None:
    twice = tuple(t for t in QUARTERS for _ in range(2))
    plan = CallPlan(CallSkip(keys=(0,), tail=0, start=0.25, end=0.75), Horizon(twice, stages=2))
    assert plan.keys == (0, 3, 4) and plan.horizon_of_runs().timesteps == (999.0, 999.0, 249.75, 249.75, 0.0, 0.0)
