"""The ComfyUI node, driven by doubles of the host: dense and merged runs, reports, refusals, cancel, nesting."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from comfy_models import HEUN, LAYERS, MERGE, STEPS, Cancelled, guider, network, patcher, sample
from doubles import comfy
from torch import Tensor, nn

from skipstone.core.errors import RecipeError
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

__all__ = ["network", "patcher"]

ROOT = Path(__file__).resolve().parents[2]
NODE = "SkipstoneTokenMerge"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable, and its server remembers what was shown on nodes."""
    with comfy.installed(monkeypatch) as server:
        yield server


def patch(patcher: comfy.ModelPatcher, recipe: Recipe = MERGE, node_id: Any = 7) -> comfy.ModelPatcher:
    from skipstone.nodes.patch import patch_model

    return patch_model(patcher, recipe, node_id)


def searches_and_reuses(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+) calls: (\d+) searches, (\d+) reuses;", text.replace("\n", " "))
    assert found, text
    return tuple(map(int, found.groups()))


def test_merged_dense_merged_on_one_loaded_model(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    before = tiny.snapshot(patcher.model.diffusion_model)
    dense = sample(patcher)
    merged = sample(patch(patcher))
    assert not torch.equal(merged, dense)
    assert torch.equal(sample(patch(patcher)), merged)
    assert torch.equal(sample(patcher), dense)
    assert tiny.snapshot(patcher.model.diffusion_model) == before
    assert len(server.texts) == 2


@pytest.mark.parametrize("off", [TokenMerge(threshold=1.0), TokenMerge(start=0.5, end=0.5), None])
def test_neutral_settings_leave_a_bare_clone(patcher: comfy.ModelPatcher, off: TokenMerge | None) -> None:
    clone = patch(patcher, Recipe(merge=off))
    assert clone is not patcher and not any(clone.wrappers.values())
    assert torch.equal(sample(clone), sample(patcher))


def test_patching_leaves_the_input_model_alone(patcher: comfy.ModelPatcher) -> None:
    clone = patch(patcher)
    assert patcher.wrappers == {} and patcher.model_options == {"transformer_options": {}}
    assert clone.model is patcher.model and clone.model_options == patcher.model_options


def test_nothing_of_a_run_stays_in_the_options(patcher: comfy.ModelPatcher) -> None:
    clone = patch(patcher)
    steering = guider(clone)
    options, content = steering.model_options, copy.deepcopy(steering.model_options)
    steering.sample(tiny.smooth(1, 4, 16, 16), comfy.Sampler(), comfy.linear_sigmas(STEPS))
    assert steering.model_options is options and options == content
    assert list(clone.wrappers) == [comfy.WrappersMP.OUTER_SAMPLE]


def test_the_report_appears_on_the_node_in_short_lines(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "skipstone"):
        sample(patch(patcher, node_id="12:3"))
    ((node, text),) = server.texts
    assert node == "12:3"
    lines = text.splitlines()
    assert re.fullmatch(rf"merged [1-9]\d?% of tokens in {LAYERS} layers, saved", lines[0])
    assert re.fullmatch(r"[1-9]\d?% of their attention;", lines[1])
    assert "layers unaccelerated: coarser than 1/1" in text.replace("\n", " ")
    assert max(map(len, lines)) <= 40
    assert len(caplog.records) == 1 and lines[0] in caplog.text


def test_a_planned_run_searches_at_its_checkpoints(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    sample(patch(patcher))
    assert searches_and_reuses(server.texts[0][1]) == (STEPS, 2 * LAYERS, (STEPS - 2) * LAYERS)


def test_split_conds_search_for_themselves(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    split = sample(patch(patcher), split=True)
    assert searches_and_reuses(server.texts[0][1]) == (STEPS, 2 * 2 * LAYERS, 2 * (STEPS - 2) * LAYERS)
    torch.testing.assert_close(split, sample(patch(patcher)), rtol=1e-4, atol=1e-4)


def test_a_sampler_with_two_calls_a_step_goes_by_noise(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    merged = sample(patch(patcher), sampler=HEUN)
    calls, searches, reuses = searches_and_reuses(server.texts[0][1])
    assert calls == STEPS and searches + reuses == (2 * STEPS - 1) * LAYERS
    assert searches == 2 * 2 * LAYERS, "the second evaluation of a noise level has pairs of its own"
    assert not torch.equal(merged, sample(patcher, sampler=HEUN))


def test_a_sampler_that_breaks_its_word_still_ends_well(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    lying = comfy.Sampler("sample_euler", HEUN.visits)
    assert torch.isfinite(sample(patch(patcher), sampler=lying)).all()
    assert searches_and_reuses(server.texts[0][1])[0] == STEPS


@pytest.mark.parametrize("batch", [2, 3])
def test_an_image_does_not_depend_on_its_batch(patcher: comfy.ModelPatcher, batch: int) -> None:
    alone = guider(patch(patcher)).sample(tiny.smooth(batch, 4, 16, 16)[-1:], comfy.Sampler(), comfy.linear_sigmas(4))
    together = sample(patch(patcher), batch=batch, steps=4)
    torch.testing.assert_close(together[-1:], alone, rtol=1e-4, atol=1e-4)


def test_two_nodes_in_a_row_the_later_counts(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    first = patch(patcher, Recipe(merge=TokenMerge(threshold=-0.5)), node_id=1)
    assert torch.equal(sample(patch(first, node_id=2)), sample(patch(patcher, node_id=3)))
    reports = [(node, text.startswith("merged ")) for node, text in server.texts]
    assert reports == [("1", False), ("2", True), ("3", True)]
    assert torch.equal(sample(patch(first, Recipe())), sample(patcher))


@pytest.mark.parametrize("inside", [False, True])
def test_cancel_passes_through_and_leaves_nothing(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, inside: bool
) -> None:
    network = patcher.model.diffusion_model
    before, dense = tiny.snapshot(network), sample(patcher)

    def cancel(*args: Any) -> None:
        raise Cancelled

    def between(call: int) -> None:
        if call == 5:
            handles.append(network.out.register_forward_pre_hook(cancel)) if inside else cancel()

    handles: list[Any] = []
    steering = guider(patch(patcher), between=between)
    options = steering.model_options
    with pytest.raises(Cancelled):
        steering.sample(tiny.smooth(1, 4, 16, 16), comfy.Sampler(), comfy.linear_sigmas(STEPS))
    for handle in handles:
        handle.remove()
    assert tiny.snapshot(network) == before and steering.model_options is options
    assert searches_and_reuses(server.texts[0][1])[0] == (6 if inside else 5), "the run was ended and told"
    assert torch.equal(sample(patcher), dense)


def test_a_run_inside_a_run_keeps_its_own_state(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    alone = sample(patch(patcher))
    inner: list[Tensor] = []

    def between(call: int) -> None:
        if call == 5:
            inner.append(sample(patch(patcher), steps=4))

    assert torch.equal(sample(patch(patcher), between=between), alone)
    assert torch.equal(inner[0], sample(patch(patcher), steps=4))
    assert [searches_and_reuses(text)[0] for _, text in server.texts] == [STEPS, 4, STEPS, 4]


def test_a_dense_run_inside_a_merged_one_is_dense(patcher: comfy.ModelPatcher) -> None:
    dense, inner = sample(patcher, steps=4), []

    def between(call: int) -> None:
        inner.append(sample(patcher, steps=4))

    sample(patch(patcher), between=between, steps=3)
    assert all(torch.equal(x, dense) for x in inner) and len(inner) == 3


def test_several_gpus_call_several_networks(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    first, second = patcher.model, comfy.BaseModel(copy.deepcopy(patcher.model.diffusion_model))
    clone = patch(patcher)

    def between(call: int) -> None:
        clone.model = (first, second)[call % 2]

    before = tiny.snapshot(second.diffusion_model)
    sample(clone, between=between)
    ((_, text),) = server.texts
    assert text.count(f"of tokens in {LAYERS} layers") == 2
    assert tiny.snapshot(second.diffusion_model) == before


class Lumina2(comfy.BaseModel):
    """A model of no family that is served."""


def test_an_unsupported_model_runs_unaccelerated_and_says_so_once(server: comfy.PromptServer) -> None:
    class Transformer(nn.Module):
        def forward(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
            return x

    patcher = comfy.ModelPatcher(Lumina2(Transformer()))
    assert torch.equal(sample(patch(patcher)), sample(patcher))
    ((_, text),) = server.texts
    models = "SD1.x, SD2.x, SDXL, SVD, PixArt, SD3, Flux and Chroma, and Call Skip on any model"
    line = f"Lumina2 is not supported: Skipstone works on {models}; sampling runs unaccelerated"
    assert text.replace("\n", " ") == line


def test_a_video_latent_runs_unaccelerated_and_says_why(server: comfy.PromptServer) -> None:
    class UNetModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in tiny.ldm_unet().model.named_children():
                self.add_module(name, part)

        def forward(self, x: Tensor, timesteps: Tensor, context: Any) -> Tensor:
            return x

    patcher = comfy.ModelPatcher(comfy.BaseModel(UNetModel()))
    noise, sigmas = tiny.noise(1, 4, 3, 8, 8), comfy.linear_sigmas(4)
    runs = [guider(p).sample(noise, comfy.Sampler(), sigmas) for p in (patch(patcher), patcher)]
    assert torch.equal(*runs)
    assert len(server.texts) == 1 and "no picture" in server.texts[0][1].replace("\n", " ")


@pytest.mark.parametrize(
    "wrong", [{"checkpoints": "custom", "custom_checkpoints": "early"}, {"start_percent": 0.8, "end_percent": 0.2}]
)
def test_a_wrong_setting_is_told_in_one_line_and_the_model_passes(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    from skipstone.nodes.token_merge import SkipstoneTokenMerge, build_recipe

    with pytest.raises(RecipeError) as error:
        build_recipe(**wrong)
    assert SkipstoneTokenMerge.run("4", model=patcher, **wrong) is patcher
    (record,) = caplog.records
    assert record.getMessage() == f"Skipstone: {error.value}; sampling runs unaccelerated"
    ((node, text),) = server.texts
    assert node == "4" and text.replace("\n", " ") == f"{error.value}; sampling runs unaccelerated"


def test_the_node_patches_its_model(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    from skipstone.nodes.token_merge import SkipstoneTokenMerge

    model = SkipstoneTokenMerge.run("4", model=patcher, threshold=0.0, checkpoints="custom", custom_checkpoints="0 25")
    assert torch.equal(sample(model), sample(patch(patcher)))
    assert torch.equal(sample(SkipstoneTokenMerge.run("5", model=patcher, threshold=1.0)), sample(patcher))
    assert [text for node, text in server.texts if node == "5"] == ["off: these settings merge nothing"]


def test_without_a_server_nothing_is_shown_and_nothing_breaks(patcher: comfy.ModelPatcher) -> None:
    comfy.PromptServer.instance = None
    assert torch.isfinite(sample(patch(patcher))).all()
