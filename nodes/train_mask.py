"""The node "Train Block Mask"."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
from comfy_api.latest import io

from ..core.calibrate.masks.settings import TrainSettings
from ..core.calibrate.masks.trainer import Progress, StopTraining, Trained
from ..core.errors import SkipstoneError
from ..core.plan.heatmap import heatmap
from ..core.plan.mask_states import states_of
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import Mask
from .denoiser import stoppable
from .files import MASK_FILES
from .messages import show_on_node, warn, wrapped
from .pictures import image, notice
from .training import Sampling, train_mask
from .widgets import MASK, MASKS, Panel, advanced, found_by, prefix_input, shown_fields, steps_input

SAMPLERS = ("euler", "ddim", "dpmpp_2m", "lms", "ipndm", "deis", "res_multistep", "uni_pc")
"""Offered for training: one call a step. The mask works with all samplers."""

WIDGETS = Panel(
    {TrainSettings: shown_fields(TrainSettings, but=("split", "forecast"))},
    ("target", "passes", "refine_batch", "form", "caching", "seed"),
    ids={"refine_batch": "samples", "seed": "training_seed"},
)


def build_settings(**widgets: Any) -> TrainSettings:
    """The settings that the widgets stand for; gradients are taken on half of the samples at a time."""
    values = WIDGETS.read(TrainSettings, widgets)
    half = -(-values.get("refine_batch", TrainSettings.refine_batch) // 2)
    return TrainSettings(**values, batch=half, profile_batch=half)


class SkipstoneTrainMask(io.ComfyNode):
    """A model and prompts in, a mask for them out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model, what is sampled in training, and the settings of training."""
        return io.Schema(
            node_id="SkipstoneTrainMask",
            display_name="Train Block Mask",
            category=MASKS,
            description="Learns which blocks of this model can be skipped at which step, within the amount of "
            "computation you choose. It needs no images, and the model is not changed.",
            inputs=[
                *_model_inputs(),
                *_sampler_inputs(),
                *WIDGETS.released(),
                advanced(prefix_input("trained", optional=True)),
                *WIDGETS.later(),
            ],
            outputs=[
                MASK.Output(display_name="mask", tooltip="The trained mask, for Block Mask."),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The mask as a picture: steps from left to right, blocks from top to bottom.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **found_by("deepcache", "learned mask"),
        )

    @classmethod
    def execute(cls, model: Any, filename_prefix: str = "trained", **widgets: Any) -> io.NodeOutput:
        """Train and save the mask. If it cannot be trained, the node says why and its output is None.

        Args:
            model: the ModelPatcher.
            filename_prefix: start of the file name.
            widgets: values of the other widgets by id.
        """
        node_id = cls.hidden.unique_id
        sampling = Sampling(**{field.name: widgets.pop(field.name) for field in fields(Sampling)})
        try:
            MASK_FILES.new_path(filename_prefix)
            settings = build_settings(**widgets)
            trained = train_mask(model, sampling, settings, _progress(node_id, settings.passes))
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


def _progress(node_id: Any, passes: int) -> Callable[[Progress], None]:
    """Moves the progress bar and shows text on the node; Cancel, which the bar raises, ends training."""
    bar = comfy.utils.ProgressBar(passes)

    def show(now: Progress) -> None:
        """After a pass."""
        show_on_node(f"pass {now.done} of {now.total}: error {now.loss:.4f}, {now.speedup:.2f}x", node_id)
        with stoppable():
            bar.update_absolute(now.done)

    return show


def _cancelled() -> BaseException:
    """What ComfyUI raises when Cancel was pressed; its flag is cleared, as ComfyUI does."""
    comfy.model_management.interrupt_current_processing(False)
    return comfy.model_management.InterruptProcessingException()


def _save(trained: Trained, prefix: str, node_id: Any) -> None:
    """Write the mask where Load Block Mask finds it, and show its size. A mask that cannot be saved is used all the same."""
    mask = trained.mask
    stopped = f"stopped after {len(trained.history)} passes; " if trained.stopped else ""
    size = f"{_share(mask):.0%} of the multiply-adds, {1 / _share(mask):.2f}x"
    try:
        path = MASK_FILES.new_path(prefix)
        mask.save(path)
    except SkipstoneError as error:
        kept = "" if trained.stopped else "; the mask is used all the same, until ComfyUI stops"
        warn(f"{stopped}not saved, {size}: {error}{kept}", node_id)
    else:
        show_on_node(wrapped(f"{stopped}{os.path.basename(path)}: {size}"), node_id)


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


def _sampler_inputs() -> list[Any]:
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
