"""Forge's own Flux class (`FORGE_PATH`, a checkout) with random weights in the web UI's bracket. Its time runs from 1 to 0."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import served
import tiny
import torch
from doubles.a1111 import traces

from skipstone.a1111_extension.bracket import UNetBracket
from skipstone.core.engine.report import Report
from skipstone.core.recipe.block_skip import BlockSkip, parse_depths
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Method, Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune

CALLS = 7
TIMES = tuple(1 - k / (CALLS - 1) for k in range(CALLS))


@pytest.fixture
def flux(monkeypatch: pytest.MonkeyPatch) -> Iterator[tiny.Case]:
    """Two double and two single blocks; nothing may be left on them."""
    path = os.environ.get("FORGE_PATH")
    if not path:
        pytest.skip("needs a checkout: set FORGE_PATH")
    for package in ("gguf", "psutil", "diffusers"):
        pytest.importorskip(package, reason=f"Forge needs {package}: pip install it")
    monkeypatch.syspath_prepend(path)
    monkeypatch.setattr(sys, "argv", ["webui.py", "--always-cpu", "--attention-pytorch"])
    from backend.nn.flux import IntegratedFluxTransformer2DModel

    shape = {
        "in_channels": 4,
        "vec_in_dim": 6,
        "context_in_dim": 8,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_ratio": 2.0,
    }
    depth = {"depth": 2, "depth_single_blocks": 2, "axes_dim": [4, 6, 6], "theta": 100}
    model = IntegratedFluxTransformer2DModel(qkv_bias=True, guidance_embed=False, **shape, **depth)
    vector = torch.linspace(-1, 1, 6)
    case = tiny.Case("flux", tiny.randomise(model), lambda m, x, t, c: m(x, t, c, vector.repeat(len(x), 1)))
    yield case
    assert list(traces(case.model)) == []


def calls_in_full(case: tiny.Case, rule: BlockSkip) -> list[int]:
    """The calls of a run at which the first single block really ran; nothing runs there in the others."""
    bracket, ran = UNetBracket(case.model, Recipe(skip=rule)), []
    block = case.model.single_blocks[0]
    forward, at = block.linear1.forward, [0]
    block.linear1.forward = lambda x: (ran.append(at[0]), forward(x))[1]
    x, context = tiny.noise(1, 4, 8, 8), tiny.noise(1, 3, 8)
    for number, time in enumerate(TIMES):
        at[0] = number
        case.call(case.model, x, torch.full((1,), time), context)
    del block.linear1.forward
    report = bracket.end()
    assert report.calls == CALLS and report.blocks_run == len(ran) * len(case.model.double_blocks) * 2
    return ran


def test_a_list_of_depths_runs_at_its_own_calls(flux: tiny.Case) -> None:
    depths = BlockSkip(rule="depths", depths=parse_depths("12 0 12 0 12 0"))
    assert calls_in_full(flux, depths) == [0, 1, 3, 5]


def test_a_window_is_one_of_the_run(flux: tiny.Case) -> None:
    assert calls_in_full(flux, BlockSkip(rule="interval", every=CALLS, start=0.4)) == [0, 1, 2]
    assert calls_in_full(flux, BlockSkip(rule="interval", every=CALLS, end=0.4)) == [0, 3, 4, 5, 6]


def drawn(case: tiny.Case, recipe: Recipe | None) -> tuple[torch.Tensor, Report | None]:
    """The last output of a run, and its report."""
    bracket = UNetBracket(case.model, recipe) if recipe else None
    x, context = tiny.noise(1, 4, 8, 8), tiny.noise(1, 3, 8)
    for time in TIMES:
        x = x - 0.1 * case.call(case.model, x, torch.full((1,), time), context)
    return x, bracket.end() if bracket else None


def test_what_forges_flux_is_served_with(flux: tiny.Case) -> None:
    """Whole calls, blocks, and the picture's keys inside attention. Afterwards it draws as before."""
    dense, _ = drawn(flux, None)
    methods: dict[str, tuple[Method, str]] = {
        "calls": (CallSkip(every=2), "calls_forecast"),
        "blocks": (BlockSkip(rule="interval", every=2), "blocks_reused"),
        "merge": (TokenMerge(threshold=-1.0, bucket=1), "merged_share"),
        "prune": (TokenPrune(ratio=0.5), "merged_share"),
    }
    for name, (settings, done) in methods.items():
        picture, report = drawn(flux, Recipe.of([settings]))
        assert report is not None and not torch.equal(picture, dense) and getattr(report, done) > 0
        assert not report.declined
        served.check("Forge", "Flux", name, served.SERVED)
    assert torch.equal(drawn(flux, None)[0], dense)
