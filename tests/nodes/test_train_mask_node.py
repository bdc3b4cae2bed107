"""Mask training in ComfyUI, driven by doubles of the host: its samplers one step at a time, weights, the node, Cancel."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from comfy_models import Lumina2, Unknown, full_disk, patch, patcher, said, sample, server
from doubles import comfy, comfy_training
from torch import Tensor, nn
from torch.nn import functional

from skipstone.core.errors import RecipeError
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask

__all__ = ["patcher", "server"]

STEPS = 4
SHAPE = (4, 8, 8)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """The tiny U-Net with one level alone: trainings take a third of the time."""
    return tiny.ldm_unet((1,), channel_mult=(1,)).model


def prompt(seed: int, tokens: int = tiny.CONTEXT[0]) -> list[Any]:
    return [tiny.noise(1, tokens, tiny.CONTEXT[1], seed=seed), {}]


@pytest.fixture
def guider(patcher: comfy.ModelPatcher) -> comfy_training.CFGGuider:
    """In a run: its model is loaded."""
    guider = comfy_training.CFGGuider(patcher)
    guider.set_conds([prompt(1)], [prompt(2)])
    guider.set_cfg(3.0)
    guider.inner_model = patcher.model
    return guider


def denoiser(guider: Any, sampler: str = "euler", steps: int = STEPS) -> Any:
    from skipstone.nodes.denoiser import SamplerDenoiser

    sigmas = comfy_training.calculate_sigmas(comfy.ModelSampling(), "normal", steps)
    return SamplerDenoiser(guider, comfy_training.SAMPLERS["sampler_object"](sampler), sigmas, SHAPE, {})


def rolled(made: Any, seeds: list[int]) -> Tensor:
    at = made.begin(seeds)
    for call in range(len(made.timesteps)):
        at = made.advance(at, made.predict(at, call), call)
    return at.x


# one step at a time


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@torch.no_grad()
def test_steps_make_the_samplers_own_loop(guider: comfy_training.CFGGuider, sampler: str) -> None:
    made = denoiser(guider, sampler)
    begun = made.begin([5])

    class Model:
        inner_model = guider

        def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
            uncond, cond = comfy_training.calc_cond_batch(guider.inner_model, begun.cond, x, sigma, {})
            return uncond + (cond - uncond) * 3.0

    whole = comfy_training.FUNCTIONS[sampler](Model(), begun.x, made._sigmas, extra_args={})
    assert torch.equal(rolled(made, [5]), whole)
    assert len(made.timesteps) == STEPS and list(made.timesteps) == sorted(made.timesteps, reverse=True)


@torch.no_grad()
def test_a_sample_never_depends_on_its_batch_mates(guider: comfy_training.CFGGuider) -> None:
    guider.set_conds([prompt(1), prompt(3)], [prompt(2)])
    made = denoiser(guider, "dpmpp_2m")
    both = rolled(made, [5, 2**31 + 7])
    for row, seed in zip(both, (5, 2**31 + 7), strict=True):
        torch.testing.assert_close(row[None], rolled(made, [seed]), rtol=1e-4, atol=1e-4)


def test_several_prompts_are_shared_out_by_the_seed(guider: comfy_training.CFGGuider) -> None:
    guider.set_conds([prompt(1), prompt(3)], [prompt(2)])
    made = denoiser(guider)
    (_, positive) = made.begin(list(range(12))).cond
    rows = positive[0]["cross_attn"]
    which = [next(p for p in (1, 3) if torch.equal(row, prompt(p)[0][0])) for row in rows]
    assert set(which) == {1, 3}
    again = made.begin([7]).cond[1][0]["cross_attn"]
    assert torch.equal(again[0], rows[7])
    guider.set_conds([prompt(1), prompt(3, tokens=2 * tiny.CONTEXT[0])], [prompt(2)])
    with pytest.raises(RecipeError, match="differ in kind"):
        denoiser(guider).begin(list(range(12)))


def test_gradients_go_back_through_the_sampler_and_not_past_a_fork(guider: comfy_training.CFGGuider) -> None:
    made = denoiser(guider, "dpmpp_2m")
    at = made.begin([5])
    first = made.predict(at, 0).detach().requires_grad_()
    at = made.advance(at, first, 0)
    forked = made.fork(at)
    at = made.advance(at, made.predict(at, 1), 1)
    assert torch.autograd.grad(at.x.sum(), first)[0].abs().sum() > 0
    assert not forked.x.requires_grad and torch.equal(forked.x, made.fork(forked).x)
    made.advance(at, made.predict(at, 2), 2)
    assert not made.advance(forked, made.predict(forked, 1).detach(), 1).x.requires_grad


def test_a_sampler_that_cannot_be_trained_for_is_refused(guider: comfy_training.CFGGuider) -> None:
    with pytest.raises(RecipeError, match="once a step"):
        denoiser(guider, "heun")
    denoiser(guider, "euler").check_gradients()
    with pytest.raises(RecipeError, match="euler_ancestral passes no gradients"):
        denoiser(guider, "euler_ancestral").check_gradients()


def test_a_sampler_without_gradients_is_trained_for_by_search_alone(
    node: Any, patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    assert trained(node, patcher, sampler_name="euler_ancestral", passes=1)[0] is not None
    assert trained(node, patcher, sampler_name="euler_ancestral", form="windowed")[0] is None
    assert "passes no gradients" in said(server, "4")


def test_calls_in_other_forwards_than_the_first_are_refused(guider: comfy_training.CFGGuider) -> None:
    long, short = [prompt(1, tokens=2 * tiny.CONTEXT[0])], [prompt(2)]
    for first, second in ((long, short), (short, long)):
        guider.set_conds(first, short)
        made = denoiser(guider)
        assert made.predict(made.begin([1, 2]), 0).shape == (2, 2, *SHAPE)
        guider.set_conds(second, short)
        with pytest.raises(RecipeError, match="the same conditionings at every step"):
            made.predict(made.begin([1]), 1)
    guider.set_cfg(1.0)
    made = denoiser(guider)
    assert made.predict(made.begin([1]), 0).shape == (1, 1, *SHAPE)
    assert not guider.inner_model.diffusion_model._forward_pre_hooks


@torch.no_grad()
@pytest.mark.parametrize("run", [None, [True, False, True, False]], ids=["dense", "masked"])
def test_conds_in_forwards_of_their_own_come_to_the_same(
    guider: comfy_training.CFGGuider, monkeypatch: pytest.MonkeyPatch, run: list[bool] | None
) -> None:
    """Each forward has caches of its own."""
    from skipstone.core.calibrate.masks.masked_model import prepare

    model = prepare(denoiser(guider), forecast=True)
    rows = None if run is None else np.repeat(np.array(run)[:, None], model.shape[1], axis=1)
    together = model.rollout([5, 6], rows)
    batched = comfy_training.calc_cond_batch

    def one_by_one(model: Any, conds: list[Any], *more: Any) -> list[Tensor]:
        return [batched(model, [cond], *more)[0] for cond in conds]

    monkeypatch.setattr(sys.modules["comfy.samplers"], "calc_cond_batch", one_by_one)
    apart = prepare(denoiser(guider), forecast=True)
    torch.testing.assert_close(apart.rollout([5, 6], rows), together, rtol=1e-4, atol=1e-4)
    at = apart.denoiser.begin([5])
    assert len(apart.dense(at, 0).caches) == 2 * len(apart.graph.masked)


def test_prompts_that_take_turns_are_left_as_they_are(guider: comfy_training.CFGGuider) -> None:
    turns = [
        [tensor, {"start_percent": at, "end_percent": at + 0.5}]
        for at, (tensor, _) in ((0.0, prompt(1)), (0.5, prompt(3)))
    ]
    guider.set_conds(turns, [prompt(2)])
    (_, positive) = denoiser(guider).begin([1, 2, 3]).cond
    assert [(entry["start_percent"], len(entry["cross_attn"])) for entry in positive] == [(0.0, 3), (0.5, 3)]


def test_norms_keep_what_the_backward_pass_reads(server: comfy.PromptServer) -> None:
    """As in Flux's blocks: what was normed is written into afterwards."""
    from skipstone.nodes.weights import KeptNorms

    def block(x: Tensor, in_place: bool) -> Tensor:
        y = x * 2
        added = functional.layer_norm(y, (3,)).square()
        return y.add_(added) if in_place else y + added

    x = tiny.noise(2, 3, seed=1).requires_grad_()
    (wanted,) = torch.autograd.grad(block(x, False).sum(), x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(block(x, True).sum(), x)
    with KeptNorms():
        out = block(x, True)
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], wanted)


class Dynamic(comfy.ModelPatcher):
    """Brings weights to the device call by call, as newer ComfyUI does on GPUs."""

    reads_again = True

    def is_dynamic(self) -> bool:
        """Until a clone is asked to be otherwise."""
        return True

    def clone(self, disable_dynamic: bool = False) -> comfy.ModelPatcher:
        """RuntimeError where the loader did not say how to read the file again."""
        if disable_dynamic and not self.reads_again:
            raise RuntimeError
        made = comfy.ModelPatcher(self.model) if disable_dynamic else type(self)(self.model)
        made.wrappers = copy.deepcopy(self.wrappers)
        return made


def test_gradients_are_taken_through_weights_that_stay_where_they_are(
    node: Any, patcher: comfy.ModelPatcher, server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    load = sys.modules["comfy.model_management"].load_models_gpu
    monkeypatch.setattr(
        sys.modules["comfy.model_management"], "load_models_gpu", lambda m, **kw: (loaded.extend(m), load(m, **kw))
    )
    dynamic = Dynamic(patcher.model)
    assert trained(node, dynamic, passes=1)[0] is not None and not loaded
    assert trained(node, dynamic, form="windowed", passes=1)[0] is not None
    assert [type(m) for m in loaded] == [comfy.ModelPatcher] and loaded[0].wholly_loaded
    dynamic.__class__ = type("Other", (Dynamic,), {"reads_again": False})
    assert trained(node, dynamic, form="windowed", passes=1)[0] is None
    assert said(server, "4").startswith("this model's loader cannot load weights for gradients")


def test_what_else_was_made_in_inference_mode_is_told(
    node: Any, patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    with torch.inference_mode():
        scale = torch.ones(1) * 0.5
    handle = patcher.model.diffusion_model.register_forward_hook(lambda module, args, output: output * scale)
    assert trained(node, patcher, passes=1)[0] is not None
    assert trained(node, patcher, form="windowed", passes=1)[0] is None
    handle.remove()
    assert said(server, "4").startswith("gradients do not pass through a ControlNet or another node's patch")


def test_weights_are_differentiable_inside_and_the_very_same_after(server: comfy.PromptServer) -> None:
    from skipstone.nodes.weights import differentiable, outside_inference

    with torch.inference_mode():
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
        cond = [[torch.ones(1, 2), {"pooled": torch.ones(1), "other": 3}]]
    before = [id(t) for t in (*net.parameters(), *net.buffers())]
    x = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(RuntimeError, match="Inference"):
        net(x).sum().backward()
    with pytest.raises(KeyError), differentiable(net):
        net(x).sum().backward()
        assert x.grad is not None and not any(p.requires_grad for p in net.parameters())
        raise KeyError
    assert [id(t) for t in (*net.parameters(), *net.buffers())] == before
    ((tensor, more),) = outside_inference(cond)
    assert not tensor.is_inference() and not more["pooled"].is_inference() and more["other"] == 3


# the node


@pytest.fixture
def node(server: comfy.PromptServer) -> Iterator[Any]:
    """The class; Cancel is not pressed."""
    from skipstone.nodes.train_mask import SkipstoneTrainMask

    comfy_training.ProgressBar.shown.clear()
    yield SkipstoneTrainMask
    cancel(False)


def cancel(pressed: bool = True) -> None:
    sys.modules["comfy.model_management"].interrupt_current_processing(pressed)


def trained(node: Any, model: Any, **changes: Any) -> tuple[Any, Any]:
    """Both outputs of a short training."""
    widgets: dict[str, Any] = {
        "positive": [prompt(1)], "negative": [prompt(2)], "latent": {"samples": torch.zeros(1, *SHAPE)}, "steps": STEPS,
        "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "target": 0.5, "passes": 2, "samples": 1,
        "filename_prefix": "own",
    }  # fmt: skip
    shown = type(node.__name__, (node,), {"hidden": type("H", (), {"unique_id": "4"})})
    return shown.execute(model=model, **{**widgets, **changes}).args


def masks_in(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.rglob("*.safetensors"))


def test_it_trains_saves_and_hands_the_mask_on(
    node: Any, patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    before, dense = tiny.snapshot(patcher.model.diffusion_model), sample(patcher)
    mask, preview = trained(node, patcher)
    assert isinstance(mask, BlockSkip) and isinstance(mask.mask, Mask)
    assert abs(mask.mask.provenance["share"] - 0.5) <= 0.02
    assert preview.ndim == 4 and preview.shape[::3] == (1, 3)
    (path,) = masks_in(tmp_path)
    assert path.name == "own_00001_.safetensors" and (Mask.load(path).run == mask.mask.run).all()
    assert said(server, "4").startswith("own_00001_.safetensors: ") and "% of the multiply-adds, " in said(server, "4")
    assert any(text.startswith("pass 1 of 2: error ") for _, text in server.texts)
    assert comfy_training.ProgressBar.shown == [(1, 2), (2, 2)]
    assert tiny.snapshot(patcher.model.diffusion_model) == before and torch.equal(sample(patcher), dense)
    assert not torch.equal(sample(patch(patcher, mask)), dense)


def test_the_same_seed_learns_the_same_whatever_is_on_the_model(
    node: Any, patcher: comfy.ModelPatcher, tmp_path: Path
) -> None:
    runs = [trained(node, model, passes=1)[0].mask for model in (patcher, patch(patcher, BlockSkip(every=2)))]
    assert (runs[0].run == runs[1].run).all() and runs[0].provenance == runs[1].provenance
    other = trained(node, patcher, passes=1, training_seed=3)[0].mask
    assert other.provenance["losses"] != runs[0].provenance["losses"], (other.provenance, runs[0].provenance)


@pytest.mark.parametrize("form", ["search", "exchange", "windowed", "interleaved", "paper"])
def test_every_form_learns_on_weights_of_inference_mode(node: Any, patcher: comfy.ModelPatcher, form: str) -> None:
    with torch.inference_mode():
        copied = copy.deepcopy(patcher.model.diffusion_model).requires_grad_(True)
        model = comfy.ModelPatcher(comfy.BaseModel(copied))
        assert all(p.is_inference() for p in copied.parameters())
        mask, _ = trained(node, model, form=form, passes=1)
    assert mask.mask.provenance["settings"]["form"] == form
    assert all(p.is_inference() and p.requires_grad for p in copied.parameters())


def test_left_alone_the_widgets_are_the_trainers_defaults(node: Any) -> None:
    from skipstone.core.calibrate.masks.settings import TrainSettings

    widgets = {i.id: getattr(i, "default", None) for i in node.define_schema().inputs}
    names = {"samples": "refine_batch", "training_seed": "seed"}
    settings = ("target", "passes", "samples", "form", "caching", "training_seed")
    assert {n: widgets[n] for n in settings} == {n: getattr(TrainSettings(), names.get(n, n)) for n in settings}


def test_cancel_keeps_what_was_learned(
    node: Any, patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny.snapshot(patcher.model.diffusion_model)

    update = comfy_training.ProgressBar.update_absolute

    def shown(bar: Any, value: int) -> None:
        cancel(value == 1)
        update(bar, value)

    monkeypatch.setattr(comfy_training.ProgressBar, "update_absolute", shown)
    with pytest.raises(comfy_training.InterruptProcessingException):
        trained(node, patcher)
    (path,) = masks_in(tmp_path)
    assert Mask.load(path).provenance["passes"] == 1
    assert said(server, "4").startswith("stopped after 1 passes; own_00001_.safetensors: ")
    assert tiny.snapshot(patcher.model.diffusion_model) == before


@pytest.mark.parametrize(("form", "calls"), [("search", 130), ("windowed", 90)])
def test_cancel_in_mid_network_keeps_it_too(
    node: Any, patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path, form: str, calls: int
) -> None:
    left = [calls]

    def press(*_: Any) -> None:
        left[0] -= 1
        cancel(left[0] == 0)

    handle = patcher.model.diffusion_model.register_forward_hook(press)
    with pytest.raises(comfy_training.InterruptProcessingException):
        trained(node, patcher, passes=50, form=form)
    handle.remove()
    assert said(server, "4").startswith("stopped after ") and len(masks_in(tmp_path)) == 1
    assert not any("forward" in m.__dict__ for m in patcher.model.diffusion_model.modules())


def test_cancel_in_the_first_pass_saves_nothing(node: Any, patcher: comfy.ModelPatcher, tmp_path: Path) -> None:
    left = [20]

    def press(*_: Any) -> None:
        left[0] -= 1
        cancel(left[0] == 0)

    handle = patcher.model.diffusion_model.register_forward_hook(press)
    with pytest.raises(comfy_training.InterruptProcessingException):
        trained(node, patcher, passes=50)
    handle.remove()
    assert not masks_in(tmp_path)


def test_the_latents_scale_is_passed_on(
    node: Any, patcher: comfy.ModelPatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer ComfyUI's empty latents say by how much they are smaller than the picture."""
    told: list[dict[str, int]] = []

    def fix(model: Any, latent: Tensor, **scales: int) -> Tensor:
        told.append(scales)
        return latent

    monkeypatch.setattr(sys.modules["comfy.sample"], "fix_empty_latent_channels", fix)
    latent = {"samples": torch.zeros(1, *SHAPE)}
    for given in (latent, {**latent, "downscale_ratio_spacial": 8}):
        cancel()
        with pytest.raises(comfy_training.InterruptProcessingException):
            trained(node, patcher, latent=given)
    assert told == [{}, {"downscale_ratio_spacial": 8}]


def test_cancel_before_anything_was_learned_saves_nothing(
    node: Any, patcher: comfy.ModelPatcher, tmp_path: Path
) -> None:
    cancel()
    with pytest.raises(comfy_training.InterruptProcessingException):
        trained(node, patcher)
    assert not masks_in(tmp_path)


WRONG = [
    ({"target": 0.05}, "the target is out of reach"),
    ({"sampler_name": "heun"}, "masks are trained with samplers that call the model once a step"),
    ({"filename_prefix": "../../x"}, "filename_prefix '../../x' leads out of"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=["target", "sampler", "prefix"])
def test_what_cannot_be_trained_is_told(
    node: Any,
    patcher: comfy.ModelPatcher,
    server: comfy.PromptServer,
    tmp_path: Path,
    wrong: dict[str, Any],
    words: str,
) -> None:
    mask, preview = trained(node, patcher, **wrong, passes=1)
    assert mask is None and preview.shape[::3] == (1, 3) and not masks_in(tmp_path)
    assert said(server, "4").startswith(words) and said(server, "4").endswith("; no mask was trained")


def test_an_unsupported_model_is_told(node: Any, server: comfy.PromptServer) -> None:
    mask, _ = trained(node, comfy.ModelPatcher(Lumina2(Unknown())))
    assert mask is None and "Lumina2" in said(server, "4") and "not supported" in said(server, "4")


def test_a_mask_that_cannot_be_saved_is_used_all_the_same(
    node: Any, patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    mask, preview = trained(node, patcher, passes=1)
    assert torch.equal(sample(patch(patcher, mask)), sample(patch(patcher, mask))) and preview.shape[1] > 40
    assert "not saved" in said(server, "4")
    assert said(server, "4").endswith("the mask is used all the same, until ComfyUI stops")
    assert not masks_in(tmp_path)
