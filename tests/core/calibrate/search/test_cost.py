"""A recipe's modelled cost is what its run multiplies; its error is told against the dense run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from skipstone.core.calibrate.search import cost
from skipstone.core.calibrate.search.cost import CostModel, watch
from skipstone.core.calibrate.search.evaluator import Evaluator
from skipstone.core.calibrate.search.metrics import metric
from skipstone.core.errors import ModelError
from skipstone.core.measure.macs import count_macs
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.pictures import PipelinePictures, Samples

CLASSES = ("0", "3")


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(skip=BlockSkip(rule="depths", depths=(1, 0, 12, 3))),
        Recipe(skip=BlockSkip(every=2)),
        Recipe(skip=BlockSkip(rule="depths", depths=(0, 0, 0, 0))),
    ],
    ids=["depths", "deepcache", "nothing"],
)
def test_the_modelled_share_is_what_the_run_multiplies(evaluator: Evaluator, pipe: Any, recipe: Recipe) -> None:
    def draw() -> None:
        evaluator.samples.draw(pipe, "latent")

    dense = count_macs(draw)
    with accelerate(pipe, recipe):
        done = count_macs(draw)
    assert evaluator(recipe).macs == pytest.approx(done / dense, rel=1e-3)
    assert 0 < done / dense < 0.8


def test_pruned_tokens_are_taken_off_the_cost(evaluator: Evaluator, pipe: Any) -> None:
    skip = BlockSkip(rule="depths", depths=(1, 0, 12, 1))
    both = Recipe(prune=TokenPrune(ratio=0.5), skip=skip)
    bare, pruned = evaluator(Recipe(skip=skip)), evaluator(both)
    with accelerate(pipe, both) as handle:
        evaluator.samples.draw(pipe, "latent")
        report = handle.report()
    saved = (report.macs_dense - report.macs_done) / (evaluator.costs.per_call * 5)
    assert saved > 0.002
    assert pruned.macs == pytest.approx(bare.macs - saved, abs=1e-9)
    assert pruned.error != bare.error


def test_batches_count_together(pipe: Any, evaluator: Evaluator) -> None:
    recipe = Recipe(prune=TokenPrune(ratio=0.5, align_cfg=False, base="random"), skip=BlockSkip(every=2))
    one_by_one = Evaluator(PipelinePictures(pipe, dataclasses.replace(evaluator.samples, batch=1)), metric("rel_l2"))
    assert one_by_one.costs.per_call * 2 == evaluator.costs.per_call
    assert one_by_one(Recipe(skip=BlockSkip(every=2))).error == pytest.approx(
        evaluator(Recipe(skip=BlockSkip(every=2))).error, rel=1e-3
    )
    assert one_by_one(recipe).macs == pytest.approx(evaluator(recipe).macs, abs=1e-6)


def test_dense_is_without_error_and_less_is_with(evaluator: Evaluator) -> None:
    neutral = evaluator(Recipe())
    assert (neutral.error, neutral.macs) == (0.0, 1.0)
    assert evaluator.fewer_steps(5).error == 0.0 and evaluator.fewer_steps(5).macs == 1.0
    fewer = evaluator.fewer_steps(2)
    assert fewer.error > 0 and fewer.macs == 0.4
    full, half = (evaluator(Recipe(skip=BlockSkip(rule="depths", depths=d))) for d in ((12,) * 4, (12, 0) * 2))
    assert full.error == 0.0 and full.macs == pytest.approx(1.0)
    assert half.error > 0 and half.macs < 0.65


def test_what_changes_nothing_is_not_drawn(pipe: Any, evaluator: Evaluator) -> None:
    with watch(pipe.unet) as seen:
        assert evaluator(Recipe(skip=BlockSkip(rule="depths", depths=(11,) * 4))).macs == 1.0
        assert evaluator(Recipe(merge=TokenMerge(threshold=1.0))).error == 0.0
    assert seen.calls == 0


def test_a_recipe_is_drawn_once(pipe: Any, evaluator: Evaluator) -> None:
    recipe = Recipe(skip=BlockSkip(every=4))
    with watch(pipe.unet) as seen:
        first = evaluator(recipe)
        assert seen.calls == 5
        assert evaluator(Recipe(skip=BlockSkip(every=4))) == first
    assert seen.calls == 5


def test_samples_have_their_own_noise_each_and_prompts_in_turn(pipe: Any) -> None:
    three = Samples(CLASSES, 3, 7, 2).draw(pipe, "latent")
    alone = Samples(("3",), 1, 8, 2).draw(pipe, "latent")
    assert torch.allclose(three[1:2], alone, atol=1e-5)
    assert not torch.equal(three[0], three[2])


def test_evaluating_leaves_no_trace(pipe: Any, evaluator: Evaluator) -> None:
    before = torch.get_rng_state()
    evaluator(Recipe(skip=BlockSkip(every=5)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not pipe.unet._forward_pre_hooks and not pipe.unet._forward_hooks
    assert all("forward" not in m.__dict__ for m in pipe.unet.modules())


def test_a_pipeline_without_a_schedule_is_refused(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Samples, "draw", lambda self, pipe, *how: torch.zeros(1, 4))
    with pytest.raises(ModelError, match="has no schedule of calls"):
        Evaluator(PipelinePictures(pipe, Samples(CLASSES, 1, 0, 3)), metric("rel_l2"))


def test_costs_are_probed_once_for_each_graph(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with watch(pipe.unet) as seen:
        Samples(CLASSES, 1, 0, 3).draw(pipe, "latent")
    assert seen.first is not None
    model = CostModel(pipe.unet, seen.first, (999.0, 666.0, 333.0))
    model.share(Recipe(skip=BlockSkip(every=2)))
    monkeypatch.setattr(cost, "count_modules", lambda modules, work: pytest.fail("counted again"))
    assert model.share(Recipe(skip=BlockSkip(every=3))) < model.share(Recipe(skip=BlockSkip(every=2))) < 1
