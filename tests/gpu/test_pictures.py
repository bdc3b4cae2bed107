"""On the device, pipelines draw what they draw on the CPU: unaccelerated to the bit, accelerated by the same plan."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from gpu import DEVICE, DTYPES, HALVES, SHOWN, apart, moved, pipeline

from pipelines import PIPELINES, Running
from skipstone.core.engine.report import Report
from skipstone.core.forecast.names import PREDICTOR_NAMES, SPACES
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import even_timesteps
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

MERGE = TokenMerge(threshold=-1.0, bucket=1, max_downsample=8)
PRUNE = TokenPrune(ratio=0.5, max_downsample=8)
EVERY_2 = BlockSkip(rule="interval", every=2)
RECIPES: dict[str, Any] = {
    "auto": "2x",
    "calls": CallSkip(every=2),
    "blocks": EVERY_2,
    "forecast blocks": BlockSkip(rule="interval", every=3, forecast=True),
    "merge": MERGE,
    "prune": PRUNE,
    "calls and tokens": Recipe.of([CallSkip(every=2), MERGE]),
    "blocks and tokens": Recipe.of([EVERY_2, PRUNE]),
}
ON_TOKENS = {"merge", "prune", "calls and tokens", "blocks and tokens"}
STEPS = {"auto": 10}

WHOLE = 2e-3
"""Furthest that a picture may be from the CPU's, in fp32, where calls or blocks are skipped: sums in another order."""
TOKENS = 5e-2
"""The same where tokens are merged or pruned: of two pairs that are equally alike, the device may choose the other."""


def drawn(running: Running, recipe: Any, name: str = "") -> tuple[torch.Tensor, Report]:
    with accelerate(running.pipe, recipe) as handle:
        return running(STEPS.get(name, 5)), handle.report()


def plan_of(report: Report) -> tuple[Any, ...]:
    """What was decided in a run."""
    blocks = report.blocks_run, report.blocks_reused, report.blocks_dead
    kept = {name: layer.kept for name, layer in report.layers.items()}
    return report.calls, report.calls_forecast, report.forecast_as, blocks, kept, report.declined


@pytest.mark.parametrize("dtype", DTYPES, **SHOWN)
@pytest.mark.parametrize("name", PIPELINES)
def test_neutral_recipes_and_full_plans_change_no_bit(name: str, dtype: torch.dtype) -> None:
    running = pipeline(name, dtype=dtype)
    dense, before = running(), tiny.snapshot(running.network)
    same = torch.equal if torch.equal(running(), dense) else _as_near_as_itself  # inpainting's VAE, on CUDA
    for recipe in (Recipe(), CallSkip(every=1), CallSkip(calls=running.calls), BlockSkip(rule="interval", every=1)):
        picture, report = drawn(running, recipe)
        assert same(picture, dense) and report.idle
    assert dense.device.type == DEVICE.type or name == "dit"  # which returns numpy's arrays
    drawn(running, CallSkip(every=2))
    assert same(running(), dense) and tiny.snapshot(running.network) == before


def _as_near_as_itself(a: torch.Tensor, b: torch.Tensor) -> bool:
    return apart(a, b) < 1e-5


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", PIPELINES)
def test_each_method_draws_the_pictures_of_the_cpu(name: str, recipe: str) -> None:
    """Every decision is the same in fp32; halves decide the same calls and blocks, and draw finite pictures."""
    there, plan = drawn(pipeline(name, "cpu"), RECIPES[recipe], recipe)
    here, ours = drawn(pipeline(name), RECIPES[recipe], recipe)
    assert plan_of(ours) == plan_of(plan)
    assert apart(here, there) < (TOKENS if recipe in ON_TOKENS else WHOLE)
    for dtype in HALVES:
        running = pipeline(name, dtype=dtype)
        half, report = drawn(running, RECIPES[recipe], recipe)
        assert half.isfinite().all(), dtype
        assert plan_of(report)[:4] == plan_of(plan)[:4] and report.declined == plan.declined


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", ["text_to_image", "flux"])
def test_each_predictor_and_space(name: str, space: Any) -> None:
    there, here, half = pipeline(name, "cpu"), pipeline(name), pipeline(name, dtype=torch.bfloat16)
    for predictor in PREDICTOR_NAMES:
        recipe = CallSkip(every=2, predictor=predictor, space=space)
        (wanted, plan), (picture, ours) = drawn(there, recipe), drawn(here, recipe)
        assert plan_of(ours) == plan_of(plan) and ours.calls_forecast == 2
        assert apart(picture, wanted) < WHOLE, predictor
        assert drawn(half, recipe)[0].isfinite().all(), predictor


PRESETS = ["ca_tome", "balanced", "reference", "dato_coco", "dato_reference", "dato_gentle"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_on_a_u_net(name: str) -> None:
    """Thresholds count tokens, and scores differ in their last bit: here, numbers of tokens may differ a little."""
    wanted, plan = drawn(pipeline("text_to_image", "cpu"), name)
    picture, ours = drawn(pipeline("text_to_image"), name)
    assert plan_of(ours)[:4] == plan_of(plan)[:4] and ours.declined == plan.declined
    assert ours.merged_share == pytest.approx(plan.merged_share, abs=0.02) and apart(picture, wanted) < TOKENS
    for dtype in HALVES:
        assert drawn(pipeline("text_to_image", dtype=dtype), name)[0].isfinite().all()


def masked(case: tiny.Case, steps: list[float]) -> BlockSkip:
    """A mask of every second block at every second call."""
    family = recognise(case.model)
    graph = family.graph(case.model)
    names = tuple(graph.blocks[i].name for i in graph.masked)
    run = torch.ones(len(steps), len(names), dtype=torch.bool)
    run[1::2, ::2] = False
    return BlockSkip(mask=Mask(run.numpy(), family.name, names, tuple(steps), graph.caching))


@pytest.mark.parametrize("method", ["off", "mask", "merge", "prune"])
def test_each_family_of_networks_with_a_mask_and_on_fewer_tokens(case: tiny.Case, method: str) -> None:
    steps = list(even_timesteps(6))
    recipes = {"off": Recipe(), "mask": masked(case, steps), "merge": MERGE, "prune": PRUNE}

    def sampled(device: Any, dtype: torch.dtype, size: tuple[int, int] | None = None) -> torch.Tensor:
        case.model.to(device, dtype)
        latent, cond = moved([case.latent(size=size), case.cond()], device, dtype)
        call = case.call
        case.call = lambda model, x, t, c: call(model, x, t.to(x.device, dtype), c)
        try:
            with accelerate(case.model, recipes[method]) as handle:
                handle.begin(steps)
                picture, report = case.sample(steps, latent, cond), handle.end()
        finally:
            case.call = call
        assert method == "off" or not report.idle, report.lines()
        assert not any("not accelerated" in note for note in report.notes), report.notes
        return picture

    allowed = TOKENS if method in ON_TOKENS else WHOLE
    assert apart(sampled(DEVICE, torch.float32), sampled("cpu", torch.float32)) < allowed
    for dtype in HALVES:
        assert sampled(DEVICE, dtype).isfinite().all(), dtype
