"""DaTo whole: cache depths with pruning on models shaped like Stable Diffusion 1, and their multiply-adds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.measure.macs import count_macs
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.presets import preset
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

STEPS = [float(t) for t in np.linspace(999, 0, 6)]


def entered(model: nn.Module, kinds: tuple[str, ...]) -> list[str]:
    """Class names of the modules of these kinds whose own code runs from now on, in order."""
    names: list[str] = []
    for module in model.modules():
        kind = type(module).__name__
        if kind in kinds:
            first = next(m for m in module.modules() if not list(m.children()))
            note_entry(first, kind, names)
    return names


def note_entry(module: nn.Module, kind: str, names: list[str]) -> None:
    """By its forward: a block with a foreign hook inside would run at every call."""
    inner = module.forward
    module.forward = lambda *args, **kwargs: (names.append(kind), inner(*args, **kwargs))[1]  # type: ignore[method-assign]


def test_depth_one_runs_one_resblock_and_one_transformer_and_depth_zero_none(unet: tiny.Case) -> None:
    kinds = ("ResBlock", "SpatialTransformer", "ResnetBlock2D", "Transformer2DModel")
    x, cond = unet.latent(1), unet.cond(1)
    recipe = Recipe(prune=TokenPrune(), skip=BlockSkip(rule="depths", depths=(1, 0, 12, 1, 0)))
    names, ran, outputs = entered(unet.model, kinds), [], []
    with accelerate(unet.model, recipe) as handle:
        handle.begin(STEPS)
        for t in STEPS:
            names.clear()
            outputs.append(unet(x + t / 1000, t, cond))
            ran.append(len(names))
            if len(names) == 2:
                assert {name[:3] for name in names} in ({"Res", "Spa"}, {"Res", "Tra"})
    assert ran == [ran[0], 2, 0, ran[0], 2, 0] and ran[0] > 10
    assert torch.equal(outputs[2], outputs[1]) and torch.equal(outputs[5], outputs[4])
    assert not torch.equal(outputs[1], outputs[0])


def test_full_depths_everywhere_are_exact(unet: tiny.Case) -> None:
    with accelerate(unet.model, BlockSkip(rule="depths", depths=(12,) * 5)) as handle:
        handle.begin(STEPS)
        assert torch.equal(unet.sample(STEPS), unet_dense(unet))


def unet_dense(unet: tiny.Case) -> Tensor:
    """The picture without anything, from a model of the same weights."""
    return tiny.BUILDERS[unet.name]().sample(STEPS)


@pytest.mark.parametrize("first", [0, 1, 12])
def test_the_first_call_is_full_whatever_the_list(unet: tiny.Case, first: int) -> None:
    recipe = Recipe(skip=BlockSkip(rule="depths", depths=(first, *(0,) * 4)))
    x, cond = unet.latent(1), unet.cond(1)
    dense = unet(x, STEPS[0], cond)
    with accelerate(unet.model, recipe) as handle:
        handle.begin(STEPS)
        assert torch.equal(unet(x, STEPS[0], cond), dense)


@pytest.mark.parametrize("name", ["dit", "pixart", "paper_dit"])
def test_transformers_prune_beside_branch_caching(name: str) -> None:
    case = tiny.BUILDERS[name]()
    recipe = Recipe(prune=TokenPrune(), skip=BlockSkip(rule="fora", every=2, caching="branch"))
    with accelerate(case.model, recipe) as handle:
        handle.begin(STEPS)
        picture = case.sample(STEPS)
        report = handle.end()
    assert torch.isfinite(picture).all() and report.merged_share > 0.35
    assert report.blocks_run == report.blocks_reused + report.blocks_dead


def test_the_published_list_stands_call_by_call_in_the_published_sampler() -> None:
    """50 PLMS steps are 51 calls, of which two share a timestep."""
    pruned: set[int] = set()
    pipe = tiny.sd_pipeline("PNDMScheduler")
    with accelerate(pipe, "dato_coco", observer=lambda f: pruned.add(f.call)):
        picture = tiny.run_sd(pipe, steps=50)
    codes = (12, *preset("dato_coco").skip.depths)  # type: ignore[union-attr]
    assert torch.isfinite(picture).all() and pruned == {k for k, code in enumerate(codes) if code > 0}


def sd15() -> nn.Module:
    """Stable Diffusion 1.5's U-Net, without weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval()


def gain(unet: nn.Module, recipe: Recipe) -> float:
    """Multiply-adds of 51 dense calls over those of a run with `recipe`, from one call of each depth, similarities included."""
    x, t = torch.empty(1, 4, 64, 64, device="meta"), torch.zeros(1, device="meta")
    cond = torch.empty(1, 77, 768, device="meta")
    codes = (12, *recipe.skip.depths)  # type: ignore[union-attr]
    short = dataclasses.replace(recipe, skip=dataclasses.replace(recipe.skip, depths=tuple(sorted(set(codes) - {12}))))
    engine, spent = Engine(unet, short), {}

    def call(timestep: float) -> None:
        with engine.call(Call(timestep, (64, 64), (Stream("cond", 1),), input=x)):
            unet(x, t, encoder_hidden_states=cond)

    kinds = (12, *short.skip.depths)  # type: ignore[union-attr]
    timesteps = [float(t) for t in np.linspace(999, 0, len(kinds))]
    with engine.run(timesteps):
        for kind, timestep in zip(kinds, timesteps, strict=True):
            spent[kind] = count_macs(lambda now=timestep: call(now))
    return 51 * count_macs(lambda: unet(x, t, encoder_hidden_states=cond)) / sum(spent[code] for code in codes)


def test_the_published_schedule_reaches_its_multiply_add_bound_on_stable_diffusion() -> None:
    """P_COCO with ratio 0.4 would be 8.80 if similarities cost nothing, and is 7.66 unpruned."""
    published = preset("dato_coco")
    assert published.prune
    recipe = dataclasses.replace(published, prune=dataclasses.replace(published.prune, ratio=0.4, matching="dense"))
    assert gain(sd15(), recipe) == pytest.approx(8.63, abs=0.01)
