"""What a search may vary holds the known lists; its metrics are 0 for equal outputs and have closed forms."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

from skipstone.cli.search import _metric
from skipstone.core.calibrate.search.metrics import metric
from skipstone.core.calibrate.search.space import Space, snap, stretched
from skipstone.core.calibrate.search.stages import FULL, stage_space
from skipstone.core.errors import RecipeError
from skipstone.core.measure.fidelity import frechet_distance
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import rule_mask
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.presets import preset
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune


def codes(space: Space, start: str) -> list[int]:
    """A start's depth codes."""
    return list(space.starts[start].values())


def test_the_depth_space_starts_with_the_published_lists_as_they_stand() -> None:
    space = stage_space("depths", Recipe(), 51, (0, 1, 12), "prune")
    published = preset("dato_d").skip
    assert published and len(space.choices) == 50
    assert codes(space, "dato_d") == [min(code, FULL) for code in published.depths]
    assert codes(space, "dato_c").count(12) == 5 and codes(space, "dato_c").count(0) == 7
    assert set(codes(space, "all full")) == {12} and set(codes(space, "all shallow")) == {1}


@pytest.mark.parametrize("calls", [10, 20, 30])
def test_an_interval_start_runs_what_deepcache_s_rule_runs(pipe: Any, calls: int) -> None:
    space = stage_space("depths", Recipe(), calls, (0, 1, 12), "prune")
    family = recognise(pipe.unet)
    graph = family.graph(pipe.unet, "output")
    pipe.scheduler.set_timesteps(calls)
    timesteps = tuple(pipe.scheduler.timesteps.float().tolist())
    for every in (2, 3, 5):
        ours = space.recipe(space.starts[f"DeepCache N={every}"]).skip
        assert ours is not None
        run, rule = (rule_mask(s, graph, family.name, timesteps).run for s in (ours, BlockSkip(every=every)))
        assert (run == rule).all()


def test_a_shorter_run_keeps_every_full_call_of_a_list() -> None:
    assert stretched([1, 1, 12, 1, 1, 0], 3) == [1, 12, 1]
    assert stretched([1, 12], 4) == [1, 1, 12, 12]
    assert stretched([3, 2, 1], 3) == [3, 2, 1]
    for name in ("dato_b", "dato_d"):
        full = sum(code >= 10 for code in preset(name).skip.depths)
        found = codes(stage_space("depths", Recipe(), 31, (0, 1, 12), "prune"), name)
        assert 1 <= full - found.count(12) + 1 <= 2


def test_levels_are_ordered_and_starts_take_the_nearest() -> None:
    assert snap((1, 3, 12), 0) == 1 and snap((0, 4), 2) == 0 and snap((1, 3, 12), 9) == 12
    space = stage_space("depths", Recipe(), 6, (13, 3, 1, 11), "prune")
    assert set(space.choices.values()) == {(1, 3, 12)}
    assert all(set(values.values()) <= {1, 3, 12} for values in space.starts.values())


def test_the_recipe_s_own_list_and_other_settings_are_kept() -> None:
    base = Recipe(skip=BlockSkip(rule="depths", depths=(1, 0, 12), forecast=True), merge=TokenMerge(threshold=0.9))
    space = stage_space("depths", base, 4, (0, 1, 12), "prune")
    assert codes(space, "recipe") == [1, 0, 12]
    found = space.recipe(space.starts["all shallow"])
    assert found.merge == base.merge
    assert found.skip == dataclasses.replace(base.skip, depths=(1, 1, 1))


def test_earlier_finds_join_the_starts() -> None:
    found = Recipe(skip=BlockSkip(rule="depths", depths=(1, 0, 12, 0)))
    for stage in ("depths", "joint"):
        space = stage_space(stage, Recipe(), 5, (0, 1, 12), "prune", {"found.json": found})
        assert codes(space, "found.json")[:4] == [1, 0, 12, 0]
        assert next(iter(space.starts)) == "found.json"


def test_the_ratio_space_gives_every_call_its_own() -> None:
    base = preset("dato_coco")
    space = stage_space("ratios", base, 10, (0, 1, 12), "prune")
    values = {name: (0.3 if k % 2 else 0.7) for k, name in enumerate(space.choices)}
    recipe = space.recipe(values)
    assert recipe.skip == base.skip
    assert recipe.prune == dataclasses.replace(base.prune, ratio=(0.7, 0.3) * 5)
    assert space.recipe(space.starts["ratio 0.4"]).prune.ratios == (0.4,) * 10
    narrow = stage_space("ratios", Recipe(prune=TokenPrune(stride=(1, 2))), 4, (0, 1), "prune")
    assert set(narrow.choices.values()) == {(0.0, 0.3, 0.4, 0.5)}


def test_the_joint_space_prunes_by_parts_of_the_run_or_merges() -> None:
    base = Recipe(skip=BlockSkip(rule="depths", depths=(1, 12, 1, 0, 12), forecast=True))
    pruned = stage_space("joint", base, 6, (0, 1, 12), "prune")
    start = {**pruned.starts["recipe"], "r00": 0.3, "r01": 0.5, "r02": 0.7}
    recipe = pruned.recipe(start)
    assert recipe.skip == base.skip and recipe.merge is None
    assert recipe.prune.ratios == (0.3, 0.3, 0.5, 0.5, 0.7, 0.7)
    merged = stage_space("joint", base, 6, (0, 1, 12), "merge")
    recipe = merged.recipe({**merged.starts["recipe"], "threshold": 0.6, "stride": "2x4", "checkpoints": "every"})
    assert recipe.merge == TokenMerge(threshold=0.6, stride=(2, 4), checkpoints="every")
    assert recipe.skip == base.skip and recipe.prune is None


@pytest.mark.parametrize(
    ("stage", "tokens"), [("depths", "prune"), ("ratios", "prune"), ("joint", "prune"), ("joint", "merge")]
)
def test_every_start_and_every_draw_is_a_recipe_that_can_run(stage: str, tokens: Any) -> None:
    space = stage_space(stage, Recipe(), 12, (0, 1, 12), tokens)
    rng = random.Random(0)
    for values in [*space.starts.values(), *(space.random(rng) for _ in range(50))]:
        assert all(values[name] in levels for name, levels in space.choices.items())
        assert Recipe.from_dict(space.recipe(values).to_dict()) == space.recipe(values)


def test_equal_outputs_have_no_error() -> None:
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, best in {"rel_l2": 0.0, "psnr": -100.0, "ssim": 0.0, "frechet": 0.0}.items():
        assert _metric(name).error(pictures, pictures) == pytest.approx(best, abs=1e-6)
        assert _metric(name).error(pictures, 1 - pictures) > best + 0.01


def test_relative_error_is_the_mean_over_samples() -> None:
    dense = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert metric("rel_l2").error(dense + torch.tensor([[0.0, 5.0], [1.0, 0.0]]), dense) == pytest.approx((1 + 0.5) / 2)
    assert metric("psnr").error(dense + 0.1, dense) == pytest.approx(-20, abs=1e-4)


def test_frechet_distance_of_normal_features_has_a_closed_form() -> None:
    unit = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert frechet_distance(unit + torch.tensor([3.0, 4.0]), unit) == pytest.approx(25)
    assert frechet_distance(3 * unit, unit) == pytest.approx(2 * (3 - 1) ** 2 * 2 / 3)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(RecipeError, match="no metric named 'fid': choose one of rel_l2"):
        _metric("fid")
