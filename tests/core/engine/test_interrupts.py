"""Ctrl-C anywhere in our code: once the run has ended or the next call begins, nothing of it is left on the model."""

from __future__ import annotations

from types import ModuleType

import pytest
import tiny
from interrupts import interrupted

from skipstone.core.engine import block_part as skip
from skipstone.core.engine import override as attach
from skipstone.core.engine import proof
from skipstone.core.measure import hooks, macs
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.pipelines.accelerate import accelerate


@pytest.mark.parametrize("after", ["end", "next call"])
@pytest.mark.parametrize(
    "modules", [(macs, hooks), (attach,), (skip,), (proof,)], ids=["probe", "attach", "skip", "proof"]
)
def test_a_run_interrupted_anywhere_leaves_no_hook_and_no_override(modules: tuple[ModuleType, ...], after: str) -> None:
    case, files = tiny.dit(), {str(module.__file__) for module in modules}
    before, x, cond = tiny.snapshot(case.model), case.latent(), case.cond()
    at, stopped = 0, True
    while stopped:
        with accelerate(case.model, BlockSkip(rule="interval", every=2)) as handle:
            stopped = interrupted(lambda: [case(x, t, cond) for t in (900.0, 800.0)], at, files)
            if after == "end":
                handle.end()
            else:
                case(x, 700.0, cond)
            assert not any(tiny.hooked(case.model)), at
            assert not tiny.overridden(case.model), at
        assert tiny.snapshot(case.model) == before, at
        at += 1 if at < 20 else 67
    assert at > 20
