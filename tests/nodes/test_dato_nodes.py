"""DaTo on a ComfyUI model, and recipe files, driven by doubles of the host."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from comfy_models import BOTH, HEUN, MERGE, SKIP, made, network, patch, patcher, said, sample, server
from doubles import comfy

from skipstone.core.errors import RecipeError
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import load_mask
from skipstone.core.recipe.presets import DATO, preset
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune

__all__ = ["network", "patcher", "server"]

PRUNE = Recipe(prune=TokenPrune(ratio=0.5))
DEPTHS = BOTH.skip


def build(**widgets: Any) -> Recipe:
    from skipstone.nodes.dato import build_dato

    return build_dato(**widgets)


def dato() -> Any:
    from skipstone.nodes.dato import SkipstoneDaTo

    return SkipstoneDaTo


def widgets() -> dict[str, Any]:
    """Inputs by id, without the model."""
    return {i.id: i for i in dato().define_schema().inputs[1:]}


# the widgets


def test_left_alone_the_widgets_are_the_papers_recipe(server: comfy.PromptServer) -> None:
    left = build(**{name: w.default for name, w in widgets().items()})
    assert left == preset("dato_coco") == build()


@pytest.mark.parametrize("name", DATO)
def test_every_preset_is_the_published_one(server: comfy.PromptServer, name: str) -> None:
    assert build(**{**{n: w.default for n, w in widgets().items()}, "preset": name}) == preset(name)


def test_each_widget_reaches_its_setting(server: comfy.PromptServer) -> None:
    given: dict[str, Any] = {
        "preset": "custom", "ratio": 0.1, "custom_depths": "1 0", "custom_ratios": "0.6; 0.3", "recover_from": "kept",
        "gamma": 2.0, "alpha": 0.3, "matching": "dense", "max_downsample": "4", "stride": 3, "draw": 9, "forecast": True,
        "last_full": True, "start_percent": 0.1, "end_percent": 0.9,
    }  # fmt: skip
    assert set(given) == set(widgets())
    recipe = build(**given)
    assert recipe.prune == TokenPrune(
        ratio=(0.6, 0.3), recover_from="kept", gamma=2.0, alpha=0.3, max_downsample=4, stride=(3, 3), seed=9, start=0.1, end=0.9
    )  # fmt: skip
    assert recipe.skip == BlockSkip(rule="depths", depths=(1, 0), forecast=True, last_full=True, start=0.1, end=0.9)
    assert build(matching="local").prune == TokenPrune(matching="local")
    assert build(preset="dato_d", ratio=0.2).prune == TokenPrune(ratio=0.2)


def test_empty_lists_are_no_caching_and_the_sliders_ratio(server: comfy.PromptServer) -> None:
    recipe = build(preset="custom", ratio=0.3, custom_depths=" ", custom_ratios="")
    assert recipe.skip is None and recipe.prune == TokenPrune(ratio=0.3)


WRONG = [
    {"preset": "custom", "custom_depths": "deep"},
    {"preset": "custom", "custom_ratios": "half"},
    {"preset": "custom", "custom_ratios": "1.5"},
    {"ratio": 0.8},
    {"matching": "local", "recover_from": "kept"},
    {"start_percent": 0.8, "end_percent": 0.2},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_setting_runs_unaccelerated_and_says_so(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, wrong: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError) as error:
        build(**wrong)
    assert dato().run("4", model=patcher, **wrong) is patcher
    assert said(server, "4") == f"{error.value}; sampling runs unaccelerated" and len(str(error.value)) < 140


# on a model


def test_pruned_dense_pruned_on_one_loaded_model(patcher: comfy.ModelPatcher) -> None:
    before = tiny.snapshot(patcher.model.diffusion_model)
    dense, one = sample(patcher), sample(patch(patcher, BOTH))
    others = [dense, sample(patch(patcher, PRUNE)), sample(patch(patcher, DEPTHS))]
    assert not any(torch.equal(one, other) for other in others)
    assert torch.equal(sample(patch(patcher, BOTH)), one)
    assert torch.equal(sample(patcher), dense)
    assert tiny.snapshot(patcher.model.diffusion_model) == before


def test_the_report_tells_tokens_and_blocks(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    sample(patch(patcher, BOTH))
    text = said(server, "7")
    assert re.match(r"pruned 5\d% of tokens in 3 layers, saved [1-9]\d?% of their attention; 10 calls: ", text), text
    assert re.search(r"ran \d+ of \d+ blocks in 10 calls, saved [1-9]\d% of", text), text
    assert max(map(len, server.texts[-1][1].splitlines())) <= 40


def test_nothing_to_do_leaves_a_bare_clone(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    clone = dato().run("3", model=patcher, preset="custom", ratio=0.0, custom_depths="", custom_ratios="")
    assert not any(clone.wrappers.values()) and torch.equal(sample(clone), sample(patcher))
    assert said(server, "3") == "off: these settings prune and skip nothing"


@pytest.mark.parametrize("options", [{"batch": 2}, {"split": True}, {"sampler": HEUN}, {"steps": 1}], ids=str)
def test_kinds_of_runs(patcher: comfy.ModelPatcher, options: dict[str, Any]) -> None:
    pruned = sample(patch(patcher, BOTH), **options)
    assert torch.isfinite(pruned).all() and not torch.equal(pruned, sample(patcher, **options))


def test_rows_are_told_apart_by_what_they_denoise(server: comfy.PromptServer) -> None:
    """Areas of one picture come as streams of one shape; only their latents tell that they are no cond and uncond."""
    from skipstone.nodes.calls import call_of

    x = torch.zeros(2, 4, 8, 8)
    assert call_of(comfy.ModelSampling(), x, torch.ones(2), {}).input is x


# beside other Skipstone nodes


def test_of_merging_and_pruning_the_later_counts(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    assert torch.equal(sample(patch(patch(patcher, MERGE, 1), BOTH, 2)), sample(patch(patcher, BOTH, 3)))
    assert said(server, "1").startswith("replaced: a later node prunes tokens in its place")
    assert torch.equal(
        sample(patch(patch(patcher, BOTH, 2), MERGE, 1)), sample(patch(patch(patcher, DEPTHS, 4), MERGE, 5))
    )
    assert "merged" in said(server, "1") and "blocks in 10 calls" in said(server, "2")


def test_on_other_modules_they_go_together(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    elsewhere = Recipe(merge=TokenMerge(threshold=0.0, targets=("attn2",)))
    both = patch(patch(patcher, PRUNE, 1), elsewhere, 2)
    assert not torch.equal(sample(both), sample(patch(patcher, PRUNE, 3)))
    assert said(server, "1").startswith("merged and pruned ")


def test_a_block_mask_takes_the_schedules_place(patcher: comfy.ModelPatcher) -> None:
    both = Recipe(prune=PRUNE.prune, skip=SKIP)
    assert torch.equal(sample(patch(patch(patcher, BOTH, 1), SKIP, 2)), sample(patch(patcher, both, 3)))


def test_an_unsupported_model_runs_unaccelerated_and_says_so(server: comfy.PromptServer) -> None:
    from comfy_models import Lumina2, Unknown

    model = comfy.ModelPatcher(Lumina2(Unknown()))
    assert torch.equal(sample(patch(model, BOTH)), sample(model))
    models = "SD1.x, SD2.x, SDXL, SVD, PixArt, SD3, Flux and Chroma, and Call Skip on any model"
    line = f"Lumina2 is not supported: Skipstone works on {models}; sampling runs unaccelerated"
    assert [text.replace("\n", " ") for _, text in server.texts] == [line]


# recipe files


def nodes() -> Any:
    from skipstone import nodes

    return nodes


def listed() -> list[str]:
    return nodes().SkipstoneRecipeLoader.define_schema().inputs[1].options


def place(tmp_path: Path, text: str, name: str = "own.json") -> None:
    (tmp_path / "models/skipstone_recipes").mkdir(parents=True, exist_ok=True)
    (tmp_path / "models/skipstone_recipes" / name).write_text(text)


def test_saved_and_loaded_it_does_the_same(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    assert listed() == ["(no recipe yet: put one into models/skipstone_recipes)"]
    model = patch(patch(patcher, DEPTHS, 1), PRUNE, 2)
    nodes().SkipstoneRecipeSaver.run("8", model=model, filename_prefix="both")
    assert listed() == ["both_00001_.json"] and said(server, "8") == "both_00001_.json: token prune, block skip"
    loaded = nodes().SkipstoneRecipeLoader.run("9", model=patcher, file="both_00001_.json")
    assert torch.equal(sample(loaded), sample(model))
    assert said(server, "9").startswith("pruned ")


def test_a_mask_is_kept_beside_the_recipe(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    model = patch(patcher, BlockSkip(mask=made(patcher)), 1)
    nodes().SkipstoneRecipeSaver.run("8", model=model, filename_prefix="deep/masked")
    folder = tmp_path / "output/skipstone_recipes/deep"
    assert json.loads((folder / "masked_00001_.json").read_text())["methods"][0]["mask"] == "masked_00001_.safetensors"
    assert listed() == ["deep/masked_00001_.json"]
    loaded = nodes().SkipstoneRecipeLoader.run("9", model=patcher, file="deep/masked_00001_.json")
    assert torch.equal(sample(loaded), sample(model)) and not torch.equal(sample(loaded), sample(patcher))
    elsewhere = Recipe.load(folder / "masked_00001_.json").skip
    assert elsewhere is not None and load_mask(elsewhere) is not None, "other hosts find the mask as well"


def test_a_mask_may_lie_where_masks_lie(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    place(tmp_path, Recipe(skip=BlockSkip(mask="own.safetensors")).to_json())
    loader = nodes().SkipstoneRecipeLoader
    assert loader.run("9", model=patcher, file="own.json") is patcher
    assert said(server, "9").startswith("there is no mask 'own.safetensors'")
    (tmp_path / "models/skipstone_masks").mkdir(parents=True)
    made(patcher).save(tmp_path / "models/skipstone_masks/own.safetensors")
    assert torch.equal(sample(loader.run("9", model=patcher, file="own.json")), sample(patch(patcher, SKIP)))


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"skipstone": 1, "methods": [{"kind": "magic"}]}', "[" * 100_000])
def test_a_file_that_is_no_recipe_runs_unaccelerated(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    place(tmp_path, text)
    assert nodes().SkipstoneRecipeLoader.run("9", model=patcher, file="own.json") is patcher
    (record,) = caplog.records
    assert record.getMessage().endswith("; sampling runs unaccelerated") and "\n" not in record.getMessage()


def test_a_file_of_another_kind_is_not_found(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    place(tmp_path, PRUNE.to_json(), "own.txt")
    assert nodes().SkipstoneRecipeLoader.run("9", model=patcher, file="own.txt") is patcher
    assert said(server, "9").startswith("there is no recipe 'own.txt'") and "own.txt" not in listed()


def test_there_is_nothing_to_save_on_a_plain_model(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    nodes().SkipstoneRecipeSaver.run("8", model=patcher, filename_prefix="both")
    assert said(server, "8") == "no Skipstone node is on this model; nothing was saved"
    nodes().SkipstoneRecipeSaver.run("8", model=patch(patcher, SKIP), filename_prefix="../../x")
    assert "leads out of output/skipstone_recipes" in said(server, "8")
    assert not list(tmp_path.rglob("*.json"))


def test_a_changed_file_is_read_again(server: comfy.PromptServer, tmp_path: Path) -> None:
    place(tmp_path, "{}")
    loader = nodes().SkipstoneRecipeLoader
    assert loader.fingerprint_inputs(file="own.json", model=None) > loader.fingerprint_inputs(file="gone.json") == 0.0
