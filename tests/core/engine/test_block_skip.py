"""BlockSkip through the public verb: on every family, beside merging, in every kind of run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import skipstone
from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.errors import MaskError, RecipeError
from skipstone.core.models import recognise
from skipstone.core.models.graph import BlockGraph
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = [float(t) for t in np.linspace(999, 0, 9)]
INTERVAL = BlockSkip(rule="interval", every=3)
MERGE = TokenMerge(threshold=-1.0, bucket=1, checkpoints=(0, 20))


def run(case: tiny.Case, recipe: object, timesteps: list[float] | None = STEPS) -> tuple[Tensor, skipstone.Recipe]:
    """A run of a bare model by hand, and its report."""
    with accelerate(case.model, recipe) as handle:  # type: ignore[arg-type]
        handle.begin(timesteps)
        picture = case.sample(STEPS)
        return picture, handle.end()


def test_a_third_of_the_calls_run_blocks_and_nothing_is_left_on_the_model(case: tiny.Case) -> None:
    dense, before = case.sample(STEPS), tiny.snapshot(case.model)
    skipped, report = run(case, INTERVAL)
    assert report.blocks_run * 3 == report.blocks_run + report.blocks_reused + report.blocks_dead
    assert not torch.equal(skipped, dense)
    assert torch.equal(case.sample(STEPS), dense)
    assert tiny.snapshot(case.model) == before


def test_every_call_in_full_is_neutral_and_installs_nothing(case: tiny.Case) -> None:
    before = tiny.snapshot(case.model)
    with accelerate(case.model, BlockSkip(rule="deepcache", every=1)):
        assert tiny.snapshot(case.model) == before


def test_planned_and_unplanned_runs_of_an_interval_give_the_same_bits(either: tiny.Case) -> None:
    planned, a = run(either, INTERVAL)
    unplanned, b = run(either, INTERVAL, None)
    assert torch.equal(planned, unplanned)
    assert (a.planned, b.planned) == (True, False)
    assert b.cache_bytes >= a.cache_bytes > 0


def test_a_run_that_leaves_its_plan_goes_on_with_one_full_call(unet: tiny.Case) -> None:
    odd = [*STEPS[:4], 777.0, *STEPS[4:]]
    with accelerate(unet.model, INTERVAL) as handle:
        handle.begin(STEPS)
        unet.sample(odd)
        report = handle.end()
    assert not report.planned and report.calls == len(odd)


def test_two_runs_of_one_handle_are_equal(either: tiny.Case) -> None:
    with accelerate(either.model, INTERVAL):
        assert torch.equal(either.sample(STEPS), either.sample(STEPS))


def test_merging_off_beside_a_mask_is_the_mask_alone(unet: tiny.Case) -> None:
    alone, _ = run(unet, INTERVAL)
    both, _ = run(unet, Recipe(merge=TokenMerge(threshold=1.0), skip=INTERVAL))
    assert torch.equal(alone, both)


def test_a_full_mask_beside_merging_is_merging_alone(unet: tiny.Case) -> None:
    alone, _ = run(unet, MERGE)
    graph = recognise(unet.model).graph(unet.model)
    names = tuple(graph.blocks[i].name for i in graph.masked)
    family = recognise(unet.model).name
    ones = Mask(np.ones((len(STEPS), len(names)), dtype=bool), family, names, tuple(STEPS))
    both, report = run(unet, Recipe(merge=MERGE, skip=BlockSkip(mask=ones)))
    assert torch.equal(alone, both)
    assert report.merged_share > 0.5 and report.blocks_reused == 0


def test_a_checkpoint_on_a_skipped_call_takes_effect_when_its_block_next_runs(unet: tiny.Case) -> None:
    merge = TokenMerge(threshold=-1.0, bucket=1, checkpoints=(0, 4), absolute=True)
    found: list[int] = []
    recipe = Recipe(merge=merge, skip=INTERVAL)
    with accelerate(unet.model, recipe, observer=lambda f: found.append(f.call)) as handle:
        handle.begin(STEPS)
        unet.sample(STEPS)
    assert set(found) == {0, 6}


def test_cond_and_uncond_in_one_forward_or_in_two_are_the_same(unet: tiny.Case) -> None:
    x, cond = unet.latent(2), unet.cond(2)

    def sample(split: bool) -> Tensor:
        engine, state = Engine(unet.model, Recipe(skip=INTERVAL)), x
        with engine.run(STEPS):
            for t in STEPS:
                layouts = [(0, 1), (1, 2)] if split else [(0, 2)]
                parts = []
                for a, b in layouts:
                    streams = tuple(Stream(i, 1) for i in range(a, b))
                    with engine.call(Call(t, unet.size, streams)):
                        parts.append(unet(state[a:b], t, cond[a:b]))
                state = tiny.step(state, torch.cat(parts))
        return state

    assert torch.allclose(sample(split=True), sample(split=False), atol=1e-5)


def test_a_cond_that_comes_back_after_a_while_is_never_given_stale_or_foreign_values(unet: tiny.Case) -> None:
    x, cond = unet.latent(1), unet.cond(1)
    engine = Engine(unet.model, Recipe(skip=BlockSkip(rule="interval", every=2)))
    with engine.run(None) as session:
        for k, key in enumerate(["a", "a", "b", "a"]):
            with engine.call(Call(STEPS[k], unet.size, (Stream(key, 1),))):
                out = unet(x + k, STEPS[k], cond)
            if key == "b":
                assert torch.equal(out, unet(x + k, STEPS[k], cond))
        report = session.close()
    assert report.blocks_reused > 0


def test_a_cond_that_was_away_at_a_refresh_runs_in_full_when_it_returns(unet: tiny.Case) -> None:
    x, cond = unet.latent(1), unet.cond(1)
    engine = Engine(unet.model, Recipe(skip=BlockSkip(rule="interval", every=2)))
    both, alone = (Stream("cond", 1), Stream("uncond", 1)), (Stream("cond", 1),)
    with engine.run(None):
        for k, streams in enumerate([both, both, alone, both]):
            batch = len(streams)
            with engine.call(Call(STEPS[k], unet.size, streams)):
                out = unet((x + k).repeat(batch, 1, 1, 1), STEPS[k], cond.repeat(batch, 1, 1))
        assert torch.equal(out, unet((x + 3).repeat(2, 1, 1, 1), STEPS[3], cond.repeat(2, 1, 1)))


def test_an_exception_inside_a_block_restores_the_model_and_frees_the_caches(unet: tiny.Case) -> None:
    before = tiny.snapshot(unet.model)
    engine = Engine(unet.model, Recipe(skip=INTERVAL))
    with pytest.raises(KeyboardInterrupt), engine.run(STEPS), engine.call(Call(STEPS[0], unet.size, (Stream(0, 2),))):
        raise KeyboardInterrupt
    assert engine.running is None
    assert tiny.snapshot(unet.model) == before


def test_outside_its_window_everything_runs(unet: tiny.Case) -> None:
    _, report = run(unet, BlockSkip(rule="interval", every=9, start=0.5))
    graph = recognise(unet.model).graph(unet.model)
    assert report.blocks_run >= 4 * len(graph) > 0
    assert report.blocks_reused > 0


def test_the_last_call_can_be_kept_full(unet: tiny.Case) -> None:
    graph = recognise(unet.model).graph(unet.model)
    _, report = run(unet, BlockSkip(rule="interval", every=9, last_full=True))
    _, without = run(unet, BlockSkip(rule="interval", every=9))
    assert report.blocks_run - without.blocks_run == len(graph)


def test_a_recipe_with_both_methods_round_trips(tmp_path: Path) -> None:
    recipe = Recipe(merge=MERGE, skip=BlockSkip(rule="depths", depths=(1, 0, 12)), name="both")
    recipe.save(tmp_path / "r.json")
    assert Recipe.load(tmp_path / "r.json") == recipe
    assert [m["kind"] for m in json.loads((tmp_path / "r.json").read_text())["methods"]] == [
        "token_merge",
        "block_skip",
    ]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rule": "magic"}, "rule"),
        ({"every": 0}, "every"),
        ({"branch": -1}, "branch"),
        ({"rule": "depths"}, "depth codes"),
        ({"rule": "mask"}, "path of its file"),
        ({"start": 0.9, "end": 0.1}, "start"),
        ({"mode": "cubic"}, "mode"),
        ({"depths": [1, -1]}, "depths"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, object], named: str) -> None:
    with pytest.raises(RecipeError, match=named) as error:
        BlockSkip(**settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_branch_caching_of_a_unet_is_refused_with_the_remedy(unet: tiny.Case) -> None:
    with pytest.raises(MaskError, match="use output"):
        accelerate(unet.model, BlockSkip(caching="branch"))


def test_a_mask_in_memory_has_no_json_form_and_says_what_to_do() -> None:
    mask = Mask(np.ones((1, 1), dtype=bool), "x", ("a",), (999.0,))
    with pytest.raises(RecipeError, match="save it"):
        Recipe(skip=BlockSkip(mask=mask)).to_json()


@pytest.mark.parametrize("kind", ["sd3", "flux"])
@pytest.mark.parametrize("caching", ["branch", "output"])
def test_fused_blocks_of_sd3_and_flux_are_skipped_whole(kind: str, caching: str) -> None:
    case = fused(kind)
    dense = case.sample(STEPS)
    skipped, report = run(case, BlockSkip(rule="interval", every=3, caching=caching))  # type: ignore[arg-type]
    assert report.blocks_run * 3 == report.blocks_run + report.blocks_reused + report.blocks_dead
    assert not torch.equal(skipped, dense)
    assert torch.equal(case.sample(STEPS), dense)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_fused_block_whose_input_stands_still_repeats_itself(kind: str) -> None:
    case = fused(kind)
    x, cond = case.latent(), case.cond()
    with accelerate(case.model, INTERVAL) as handle:
        handle.begin([500.0, 499.0])
        first, second = case(x, 500.0, cond), case(x, 500.0, cond)
        assert handle.end().blocks_reused == len(recognise(case.model).graph(case.model))
    assert torch.allclose(first, second, atol=1e-5)


def fused(kind: str) -> tiny.Case:
    """Tiny SD3 and Flux transformers of diffusers."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    if kind == "sd3":
        model = SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=8, out_channels=4,
        )  # fmt: skip
        pooled = tiny.noise(2, 8, seed=3)

        def call(m: torch.nn.Module, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
            return m(x, encoder_hidden_states=c, pooled_projections=pooled, timestep=t).sample

        return tiny.Case(kind, tiny.randomise(model), call)
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4), guidance_embeds=False,
    )  # fmt: skip
    pooled, size = tiny.noise(2, 8, seed=3), 16

    def flux(m: torch.nn.Module, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        out = m(
            tokens, encoder_hidden_states=c, pooled_projections=pooled, timestep=t / 1000,
            txt_ids=torch.zeros(c.shape[1], 3), img_ids=torch.zeros(size * size, 3),
        ).sample  # fmt: skip
        return out.transpose(1, 2).unflatten(2, (size, size))

    return tiny.Case(kind, tiny.randomise(model), flux)


class Joins(TorchDispatchMode):
    """Collects the joins of two pictures' features."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.cat.default and output.ndim == 4 and len(args[0]) == 2:
            self.shapes.append(tuple(output.shape))
        return output


def test_decoder_stages_that_are_not_consumed_join_no_blank_values() -> None:
    case = tiny.BUILDERS["diffusers"]()
    stages, counts = case.model.up_blocks, []
    with accelerate(case.model, BlockSkip(rule="deepcache", every=2)) as handle, torch.no_grad():
        handle.begin(STEPS)
        for t in STEPS[:2]:
            with Joins() as joins:
                case(case.latent(), t, case.cond())
            counts.append(len(joins.shapes))
        report = handle.end()
    assert counts == [sum(len(stage.resnets) for stage in stages), len(stages[-1].resnets)]
    assert report.blocks_run + report.blocks_reused + report.blocks_dead == 2 * len(_graph(case))


def _graph(case: tiny.Case) -> BlockGraph:
    return recognise(case.model).graph(case.model)
