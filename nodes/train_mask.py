"""The node "Train Block Mask"."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io

from ..core.calibrate.masks.settings import TrainSettings
from ..core.calibrate.masks.trainer import Progress, StopTraining, Trained, train
from ..core.errors import SkipstoneError
from ..core.plan.heatmap import heatmap
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import Mask
from ..core.recipe.recipe import Recipe
from .denoiser import SamplerDenoiser, stoppable
from .files import MASK_FILES
from .mask_store import states_of
from .messages import show_on_node, warn, wrapped
from .patch import patch_model
from .pictures import image, notice
from .serving import family_of
from .weights import differentiable, outside_inference, wholly_loaded
from .widgets import MASK, MASKS, advanced, steps_input

SAMPLERS = ("euler", "ddim", "dpmpp_2m", "lms", "ipndm", "deis", "res_multistep", "uni_pc")
"""Offered for training: one call a step. A mask serves all samplers."""

GRADIENTS = ("exchange", "windowed", "interleaved", "paper")
"""Forms of training that take gradients."""


class SkipstoneTrainMask(io.ComfyNode):
    """A model and prompts in, a mask for them out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, their ranges and their tooltips."""
        return io.Schema(
            node_id="SkipstoneTrainMask",
            display_name="Train Block Mask",
            category=MASKS,
            description="Learns which blocks of this model can be skipped at which step, within the amount of "
            "computation you choose. It needs no images, and the model is not changed.",
            inputs=[*_model_inputs(), *_run_inputs(), *_train_inputs(), *map(advanced, _rare_inputs())],
            outputs=[
                MASK.Output(display_name="mask", tooltip="The trained mask, for Block Mask."),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The mask as a picture: steps from left to right, blocks from top to bottom.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, filename_prefix: str = "trained", **widgets: Any) -> io.NodeOutput:
        """Train, save, and hand the mask on. What cannot be trained is told on the node."""
        node_id = cls.hidden.unique_id
        try:
            MASK_FILES.new_path(filename_prefix)
            trained = train_mask(model, _tell(node_id, widgets["passes"]), **widgets)
            if trained.stopped and not trained.history:
                raise StopTraining
        except StopTraining:
            raise _cancelled() from None
        except SkipstoneError as error:
            warn(f"{error}; no mask was trained", node_id)
            return io.NodeOutput(None, image(notice(str(error))))
        _save(trained, filename_prefix, node_id)
        if trained.stopped:
            raise _cancelled()
        return io.NodeOutput(BlockSkip(mask=trained.mask), image(_picture(trained)))


def train_mask(
    model: Any,
    on_progress: Callable[[Progress], None],
    *,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    target: float,
    samples: int = 16,
    training_seed: int = 0,
    **options: Any,
) -> Trained:
    """Train on a ModelPatcher, inside a sampling run of ComfyUI's, which loads the model and frees memory for it.

    latent: gives the size. samples: in a batch. Raises :class:`SkipstoneError` for a model, sampler or target that cannot be used.
    """
    batches = {"refine_batch": samples, "batch": -(-samples // 2), "profile_batch": -(-samples // 2)}
    settings = TrainSettings(target=target, seed=training_seed, **batches, **options)
    family_of(model)
    gradients = settings.form in GRADIENTS
    with torch.inference_mode(False) if gradients else nullcontext():
        alone = _without_caches(model)
        guider = comfy.samplers.CFGGuider(wholly_loaded(alone) if gradients else alone)
        guider.set_conds(outside_inference(positive), outside_inference(negative))
        guider.set_cfg(cfg)
        sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler).sigmas.clone()
        empty = _empty(model, latent, samples)
        run = TrainingRun(comfy.samplers.sampler_object(sampler_name), settings, on_progress)
        guider.sample(torch.zeros_like(empty), empty, run, sigmas, disable_pbar=True, seed=0)
    assert run.trained is not None
    return run.trained


def _without_caches(model: Any) -> Any:
    """A clone without what skips parts of a run in its own way: Skipstone's plan, and ComfyUI's EasyCache."""
    clone = patch_model(model, Recipe())
    for kind in list(clone.wrappers):
        clone.remove_wrappers_with_key(kind, "easycache")
    return clone


def _empty(model: Any, latent: dict[str, Any], samples: int) -> torch.Tensor:
    """Zeros [samples, ...] in the model's own latent shape for the size of `latent`."""
    names = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    scales = {name: latent[name] for name in names if latent.get(name) is not None}
    one = comfy.sample.fix_empty_latent_channels(model, torch.zeros_like(latent["samples"][:1]), **scales)
    return torch.zeros_like(one).expand(samples, *one.shape[1:]).contiguous()


class TrainingRun(comfy.samplers.Sampler):
    """Takes a sampler's place in one of ComfyUI's runs, and trains there."""

    def __init__(self, sampler: Any, settings: TrainSettings, on_progress: Callable[[Progress], None]) -> None:
        """sampler: the one whose steps are trained for."""
        self._sampler, self._settings, self._on_progress = sampler, settings, on_progress
        self.trained: Trained | None = None

    def sample(
        self, model_wrap: Any, sigmas: Any, extra_args: Any, callback: Any, noise: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """model_wrap: the guider, whose model is loaded."""
        denoiser = SamplerDenoiser(model_wrap, self._sampler, sigmas, noise.shape[1:], extra_args["model_options"])
        gradients = self._settings.form in GRADIENTS
        if gradients:
            denoiser.check_gradients()
        with differentiable(denoiser.network) if gradients else nullcontext():
            name = type(model_wrap.inner_model).__name__
            self.trained = train(denoiser, self._settings, self._on_progress, model=name)
        return torch.zeros_like(noise)


def _tell(node_id: Any, passes: int) -> Callable[[Progress], None]:
    """Progress bar and text on the node; Cancel, which the bar raises, ends training."""
    bar = comfy.utils.ProgressBar(passes)

    def tell(now: Progress) -> None:
        """After a pass."""
        show_on_node(f"pass {now.done} of {now.total}: error {now.loss:.4f}, {now.speedup:.2f}x", node_id)
        with stoppable():
            bar.update_absolute(now.done)

    return tell


def _cancelled() -> BaseException:
    """What ComfyUI raises when Cancel was pressed; its flag is taken down, as ComfyUI does."""
    comfy.model_management.interrupt_current_processing(False)
    return comfy.model_management.InterruptProcessingException()


def _save(trained: Trained, prefix: str, node_id: Any) -> None:
    """Write the mask where Load Block Mask finds it, and show what it is. Where that fails the mask is still handed on."""
    mask = trained.mask
    stopped = f"stopped after {len(trained.history)} passes; " if trained.stopped else ""
    what = f"{_share(mask):.0%} of the multiply-adds, {1 / _share(mask):.2f}x"
    try:
        path = MASK_FILES.new_path(prefix)
        mask.save(path)
    except SkipstoneError as error:
        kept = "" if trained.stopped else "; the mask is used all the same, until ComfyUI stops"
        warn(f"{stopped}not saved, {what}: {error}{kept}", node_id)
    else:
        show_on_node(wrapped(f"{stopped}{os.path.basename(path)}: {what}"), node_id)


def _share(mask: Mask) -> float:
    return float(mask.provenance["share"])


def _picture(trained: Trained) -> Any:
    mask = trained.mask
    title = f"{mask.family}, {len(mask.run)} calls, trained: {_share(mask):.0%} of the multiply-adds"
    return heatmap(states_of(mask, trained.graph), mask.blocks, title)


def _model_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="The model to train a mask for. Its weights are not changed."),
        io.Conditioning.Input(
            "positive",
            tooltip="What the training samples show. To train on several prompts, join them with Conditioning (Combine); "
            "each sample uses one of them.",
        ),
        io.Conditioning.Input("negative", tooltip="The negative prompt, as in the sampler. Not used when cfg is 1."),
        io.Latent.Input("latent", tooltip="An empty latent of the size you will sample."),
    ]


def _run_inputs() -> list[Any]:
    known = comfy.samplers.KSampler
    return [
        steps_input("Number of steps to train for. The mask can be used with other numbers too."),
        io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="The guidance scale, as in the sampler."),
        io.Combo.Input(
            "sampler_name", options=[name for name in SAMPLERS if name in known.SAMPLERS], default="euler",
            tooltip="Sampler to train with. The mask works with all samplers.",
        ),
        io.Combo.Input("scheduler", options=list(known.SCHEDULERS), tooltip="The scheduler, as in the sampler."),
    ]  # fmt: skip


def _train_inputs() -> list[Any]:
    return [
        io.Float.Input(
            "target", default=0.6, min=0.05, max=1.0, step=0.01, display_mode=io.NumberDisplay.slider,
            tooltip="How much of the model's computation may run: 0.6 is about 1.7 times less than the full model, 0.4 "
            "is 2.5 times less.",
        ),
        io.Int.Input(
            "passes", default=20, min=1, max=10000,
            tooltip="Rounds of training. Start with 20; more rounds take longer and can find better masks.",
        ),
    ]  # fmt: skip


def _rare_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "samples", default=16, min=1, max=64, optional=True,
            tooltip="Number of samples on which masks are compared. Fewer are faster and need less memory, but the mask "
            "fits them more closely.",
        ),
        io.Combo.Input(
            "form", options=["search", *GRADIENTS], default="search", optional=True,
            tooltip="How the mask is found. search needs no gradients and the least memory; the other forms use "
            "gradients and need the model's weights twice. paper is the published method with all of its settings.",
        ),
        io.Combo.Input(
            "caching", options=["auto", "output", "branch"], default="auto", optional=True,
            tooltip="What is cached: a block's output, or only what the block adds to its input. auto picks output for "
            "U-Nets and branch for transformers.",
        ),
        io.Int.Input(
            "training_seed", default=0, min=0, max=2000, optional=True,
            tooltip="Seed of the training. The same seed gives the same mask.",
        ),
        io.String.Input(
            "filename_prefix", default="trained", optional=True,
            tooltip="Start of the mask's file name; a counter is added.",
        ),
    ]  # fmt: skip
