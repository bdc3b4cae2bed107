"""A plan that fits a budget: the fewest columns always run, those of least worth first."""

from __future__ import annotations

import numpy as np
import pytest
from toys import Residual

from skipstone.core.plan.block_plan import BlockPlan, even_timesteps
from skipstone.core.plan.liveness import State
from skipstone.core.plan.memory import fit_budget
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask


@pytest.mark.parametrize(("room", "reusing"), [(4, [0, 2, 3, 4]), (3, [0, 3, 4]), (2, [0, 3]), (1, [3]), (0, [])])
def test_as_many_blocks_reuse_as_there_is_room_for_and_those_that_save_most(room: int, reusing: list[int]) -> None:
    """Block 1 runs at every call anyway, whatever its worth."""
    run = np.array([[True] * 5, [False, True, False, False, False], [True, True, False, True, True]])
    worth = np.array([3.0, 0.0, 1.0, 4.0, 2.0])
    fitted = fit_budget(run, worth, lambda rows: (~rows.all(axis=0)).sum() <= room)
    assert np.flatnonzero(~fitted.all(axis=0)).tolist() == reusing
    assert np.array_equal(fitted[:, reusing], run[:, reusing]), "the rows of those that reuse are as planned"


@pytest.mark.parametrize(
    ("reuses", "costs", "sizes", "always"),
    [((3, 1), (1, 1), (8, 8), 1), ((1, 3), (9, 1), (8, 8), 1), ((2, 2), (1, 1), (8, 4), 0)],
    ids=["reuses", "costs", "sizes"],
)
def test_a_plan_keeps_the_blocks_whose_caches_save_most_per_byte(
    reuses: tuple[int, int], costs: tuple[int, int], sizes: tuple[int, int], always: int
) -> None:
    """Two branches, room for the larger cache alone."""
    run = np.array([[call < 4 - count for count in reuses] for call in range(4)])
    graph = Residual(2).graph()
    mask = Mask(run, "toy", tuple(b.name for b in graph.blocks), even_timesteps(4), graph.caching)
    plan = BlockPlan(BlockSkip(mask=mask), graph, "toy", Horizon(even_timesteps(4)))
    assert plan.fit(np.array(sizes), np.array(costs), budget=8).startswith("memory budget: 1 of 2 blocks always run")
    states = np.array([plan.row(call, timestep)[0] for call, timestep in enumerate(even_timesteps(4))])
    assert [(states[:, i] == State.REUSE).sum() for i in (always, 1 - always)] == [0, reuses[1 - always]]
