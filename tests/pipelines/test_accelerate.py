"""The one verb: what accelerate puts on a model, takes off again, and never touches."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import nn

from skipstone.core.errors import ModelError, RecipeError
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = (981.0, 650.0, 320.0, 1.0)
MERGE = TokenMerge(threshold=0.5, bucket=1)


class Stop(Exception):
    """Raised inside a forward by the tests."""


# Off means off


def test_off_on_off_is_bit_identical_and_leaves_nothing(case: tiny.Case) -> None:
    before, dense = tiny.snapshot(case.model), case.sample(STEPS)
    handle = accelerate(case.model, MERGE)
    merged = case.sample(STEPS)
    report = handle.remove()
    assert report.served > 0 and report.merged_share > 0.1
    assert not torch.equal(merged, dense)
    assert tiny.snapshot(case.model) == before
    assert torch.equal(case.sample(STEPS), dense)


def test_between_calls_no_leaf_module_is_touched(case: tiny.Case) -> None:
    root_only = [] if case.name != "paper_dit" else [""]
    with accelerate(case.model, MERGE):
        assert tiny.overridden(case.model) == root_only
        case(case.latent(), 900.0, case.cond())
        assert tiny.overridden(case.model) == root_only
        assert set(tiny.hooked(case.model)) <= {""}


NEUTRAL = [
    {"threshold": 1.0},
    {"threshold": 1},
    {"start": 0.5, "end": 0.5},
    {"start": 1.0, "end": 1.0},
    {"stride": (1, 1)},
    {"targets": ()},
]


@pytest.mark.parametrize("fields", NEUTRAL, ids=str)
def test_neutral_settings_install_nothing_and_change_no_bit(either: tiny.Case, fields: dict[str, Any]) -> None:
    case = either
    before, dense = tiny.snapshot(case.model), case.sample(STEPS[:1])
    with accelerate(case.model, TokenMerge(**fields)) as handle:
        assert tiny.snapshot(case.model) == before
        assert torch.equal(case.sample(STEPS[:1]), dense)
        assert handle.report().calls == 0
    assert tiny.snapshot(case.model) == before


def test_an_empty_recipe_installs_nothing(unet: tiny.Case) -> None:
    before = tiny.snapshot(unet.model)
    with accelerate(unet.model, Recipe()):
        assert tiny.snapshot(unet.model) == before


def test_a_threshold_nothing_reaches_is_exact_though_installed(case: tiny.Case) -> None:
    x, cond = tiny.noise(2, case.channels, *case.size), case.cond()
    dense = case(x, 900.0, cond)
    with accelerate(case.model, TokenMerge(threshold=0.99999, bucket=1)) as handle:
        assert torch.equal(case(x, 900.0, cond), dense)
        assert handle.report().merged_share == 0
        assert handle.report().served > 0


def test_outside_the_window_calls_are_exact(unet: tiny.Case) -> None:
    steps = (981.0, 800.0, 600.0, 400.0, 200.0, 1.0)
    x, cond = unet.latent(), unet.cond()
    dense = [unet(x, t, cond) for t in steps]
    with accelerate(unet.model, TokenMerge(threshold=0.5, bucket=1, start=0.3, end=0.7)) as handle:
        same = [torch.equal(unet(x, t, cond), d) for t, d in zip(steps, dense, strict=True)]
        inside = [k for layer in handle.report().layers.values() for k in layer.kept_by_call]
    assert same == [True, True, False, False, True, True]
    assert set(inside) == {2, 3}


# Handles


def test_remove_may_be_called_twice_and_returns_the_report(unet: tiny.Case) -> None:
    handle = accelerate(unet.model, MERGE)
    unet.sample(STEPS)
    first, second = handle.remove(), handle.remove()
    assert first.calls == second.calls == handle.report().calls == len(STEPS)


def test_accelerating_again_replaces(either: tiny.Case) -> None:
    case, before, dense = either, tiny.snapshot(either.model), either.sample(STEPS)
    with accelerate(case.model, TokenMerge(threshold=0.8, bucket=1)):
        once = case.sample(STEPS)
    first = accelerate(case.model, MERGE)
    second = accelerate(case.model, TokenMerge(threshold=0.8, bucket=1))
    assert torch.equal(case.sample(STEPS), once)
    assert first.report().calls == 0
    assert second.report().calls == len(STEPS)
    first.remove()
    assert torch.equal(case.sample(STEPS), once)
    second.remove()
    assert tiny.snapshot(case.model) == before
    assert torch.equal(case.sample(STEPS), dense)


def test_accelerating_a_pipeline_and_then_its_unet_replaces() -> None:
    pipe = tiny.sd_pipeline()
    before = tiny.snapshot(pipe.unet)
    first = accelerate(pipe, MERGE)
    second = accelerate(pipe.unet, MERGE)
    tiny.run_sd(pipe, steps=3)
    assert first.report().calls == 0
    assert second.report().calls == 3
    second.remove()
    assert tiny.snapshot(pipe.unet) == before
    assert "progress_bar" not in pipe.__dict__


def test_the_context_manager_removes_also_when_it_raises(unet: tiny.Case) -> None:
    before = tiny.snapshot(unet.model)
    with pytest.raises(Stop), accelerate(unet.model, MERGE):
        unet(unet.latent(), 900.0, unet.cond())
        raise Stop
    assert tiny.snapshot(unet.model) == before


def test_removed_in_mid_run_the_rest_is_dense(unet: tiny.Case) -> None:
    x, cond = unet.latent(), unet.cond()
    dense = unet(x, 600.0, cond)
    handle = accelerate(unet.model, MERGE)
    assert not torch.equal(unet(x, 600.0, cond), dense)
    handle.remove()
    assert torch.equal(unet(x, 600.0, cond), dense)


def test_removed_inside_a_forward_the_call_ends_well(unet: tiny.Case) -> None:
    before, x, cond = tiny.snapshot(unet.model), unet.latent(), unet.cond()
    dense = unet(x, 600.0, cond)
    handle = accelerate(unet.model, MERGE)
    block = next(m for n, m in unet.model.named_modules() if n.endswith("transformer_blocks.0"))
    hook = block.register_forward_hook(lambda *_: (handle.remove(), None)[1])
    out = unet(x, 600.0, cond)
    hook.remove()
    assert out.shape == dense.shape
    assert tiny.snapshot(unet.model) == before
    assert torch.equal(unet(x, 600.0, cond), dense)


def test_recipes_in_all_their_forms(unet: tiny.Case, tmp_path: Any) -> None:
    recipe = Recipe(MERGE)
    recipe.save(tmp_path / "r.json")
    results = []
    for form in (recipe, MERGE, recipe.to_dict(), tmp_path / "r.json", str(tmp_path / "r.json")):
        with accelerate(unet.model, form):
            results.append(unet.sample(STEPS))
    assert all(torch.equal(r, results[0]) for r in results)
    with accelerate(unet.model, "ca_tome:config_1") as handle:
        assert handle.recipe.name == "ca_tome:config_1"


# Runs of a bare model begin and end by themselves


def test_the_same_run_twice_is_the_same(either: tiny.Case) -> None:
    with accelerate(either.model, TokenMerge(threshold=0.5, bucket=1, checkpoints=(0,))):
        first = either.sample(STEPS)
        assert torch.equal(either.sample(STEPS), first)


def test_the_second_image_is_the_image_generated_alone(unet: tiny.Case) -> None:
    merge = TokenMerge(threshold=0.5, bucket=1, checkpoints=(0,))
    other = unet.latent(seed=40)
    with accelerate(unet.model, merge):
        alone = unet.sample(STEPS, other)
    with accelerate(unet.model, merge):
        unet.sample(STEPS)
        assert torch.equal(unet.sample(STEPS, other), alone)


def test_runs_of_other_sizes_in_between_change_nothing(either: tiny.Case) -> None:
    h, w = either.size
    small = either.latent(size=(h // 2, w)) if either.name != "dit" else either.latent(batch=3)
    with accelerate(either.model, TokenMerge(threshold=0.5, bucket=1, checkpoints=(0,))) as handle:
        first = either.sample(STEPS)
        between = either.sample(STEPS, small)
        assert handle.report().calls == len(STEPS)
        assert torch.equal(either.sample(STEPS), first)
        assert torch.equal(either.sample(STEPS, small), between)


def test_begin_by_hand_lets_the_timestep_rise(unet: tiny.Case) -> None:
    steps = (900.0, 500.0, 700.0, 300.0)
    with accelerate(unet.model, TokenMerge(threshold=0.5, bucket=1, checkpoints=(0,))) as handle:
        handle.begin()
        unet.sample(steps)
        assert handle.report().calls == 4
        assert not handle.report().planned
        assert handle.report().searched == 2 * handle.report().served
        handle.begin(steps)
        unet.sample(steps)
        assert handle.report().planned
        assert handle.end().calls == 4
        unet.sample(STEPS)
        assert handle.report().calls == len(STEPS)


# Errors


class Unknown(nn.Module):
    """No diffusion model."""


def test_a_model_of_no_family_is_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match="Unknown is not of a supported family") as error:
        accelerate(Unknown())
    assert "\n" not in str(error.value)


def test_a_model_without_attention_is_refused_in_one_line() -> None:
    plain = tiny.diffusers_unet(
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), mid_block_type=None
    )
    before = tiny.snapshot(plain.model)
    with pytest.raises(ModelError, match="no self-attention") as error:
        accelerate(plain.model, MERGE)
    assert "\n" not in str(error.value)
    assert tiny.snapshot(plain.model) == before


@pytest.mark.parametrize("target", [None, 3, "model", object()])
def test_what_is_no_model_is_refused_in_one_line(target: Any) -> None:
    with pytest.raises(ModelError, match="not a model and has no unet") as error:
        accelerate(target, MERGE)
    assert "\n" not in str(error.value)


def test_a_bad_recipe_leaves_an_accelerated_model_as_it_is(unet: tiny.Case) -> None:
    with accelerate(unet.model, MERGE):
        before = tiny.snapshot(unet.model)
        with pytest.raises(RecipeError):
            accelerate(unet.model, "no such preset")
        assert tiny.snapshot(unet.model) == before
