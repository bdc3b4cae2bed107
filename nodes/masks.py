"""The nodes of block masks: a mask is read from a file, put on a model, saved, or drawn."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.errors import RecipeError, SkipstoneError
from ..core.plan.heatmap import heatmap
from ..core.plan.liveness import State
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import Mask
from ..core.recipe.recipe import Recipe
from .files import MASK_FILES
from .mask_store import mask_of, states_of
from .messages import UNACCELERATED, show_on_node, warn
from .patch import patch_model
from .pictures import image, notice
from .widgets import MASK, MASKS, advanced, steps_input


class SkipstoneMaskLoader(io.ComfyNode):
    """A mask file in, mask out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One list of files."""
        return io.Schema(
            node_id="SkipstoneMaskLoader",
            display_name="Load Block Mask",
            category=MASKS,
            description="Loads a mask file: which blocks of one kind of model run at which step.",
            inputs=[
                io.Combo.Input(
                    "file", options=MASK_FILES.names(),
                    tooltip=f"A mask file from models/{MASK_FILES.folder} or output/{MASK_FILES.folder}. It is scaled to "
                    "your number of steps.",
                )
            ],
            outputs=[MASK.Output(display_name="mask", tooltip="The mask. It fits the kind of model it was made for.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """A file that is no mask is told on the node; no mask is handed on."""
        try:
            mask = Mask.load(MASK_FILES.path(file))
        except SkipstoneError as error:
            warn(f"{error}; {UNACCELERATED}", cls.hidden.unique_id)
            return io.NodeOutput(None)
        show_on_node(_line(mask), cls.hidden.unique_id)
        return io.NodeOutput(BlockSkip(mask=mask))

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        """A file that changed is read anew."""
        return MASK_FILES.changed(file)


class SkipstoneMaskSaver(io.ComfyNode):
    """A mask and a model in, a mask file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What to save, for how many steps, under which name."""
        return io.Schema(
            node_id="SkipstoneMaskSaver",
            display_name="Save Block Mask",
            category=MASKS,
            description=f"Saves a mask for this model to output/{MASK_FILES.folder}, where Load Block Mask finds it.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the mask is for."),
                MASK.Input("mask", tooltip="The mask or rule to save."),
                steps_input("Number of steps to save the mask for. A mask that already has this many steps is saved unchanged."),
                io.String.Input(
                    "filename_prefix", default="mask",
                    tooltip="Start of the file name; a counter is added.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, steps: int, filename_prefix: str, mask: BlockSkip | None = None) -> io.NodeOutput:
        """Write, and tell on the node what and where."""
        node_id = cls.hidden.unique_id
        try:
            made, _ = mask_of(model, _given(mask), steps)
            path = MASK_FILES.new_path(filename_prefix)
            made.save(path)
            show_on_node(f"{os.path.basename(path)}: {_line(made)}", node_id)
        except SkipstoneError as error:
            warn(f"{error}; nothing was saved", node_id)
        return io.NodeOutput()


class SkipstoneBlockMask(io.ComfyNode):
    """MODEL and mask in, MODEL out: blocks run or hand out their cached output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Two sockets."""
        return io.Schema(
            node_id="SkipstoneBlockMask",
            display_name="Block Mask",
            category="Skipstone",
            description="Faster sampling: at each step only the blocks chosen by the mask run, and the others reuse "
            "their cached output. After sampling the node shows what ran and what was saved.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="An SD1.x, SD2.x, SDXL, SVD, PixArt, SD3, Flux or Chroma model. Other models run "
                    "unaccelerated.",
                ),
                MASK.Input("mask", tooltip="A mask from Block Mask Rule, Load Block Mask or Train Block Mask. A second "
                "Block Mask on the same model replaces the first."),
                *map(advanced, _memory_inputs()),
            ],
            outputs=[io.Model.Output(tooltip="The model with block skipping. The input model is not changed.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, mask: BlockSkip | None = None, **rare: Any) -> io.NodeOutput:
        """Patch the model; without a mask it passes through as it is."""
        node_id = cls.hidden.unique_id
        if mask is None:
            warn(f"no mask came in, see the node before; {UNACCELERATED}", node_id)
            return io.NodeOutput(model)
        if mask.neutral:
            show_on_node("off: these settings skip nothing", node_id)
        return io.NodeOutput(patch_model(model, Recipe(skip=replace(mask, **rare)), node_id))


def _memory_inputs() -> list[Any]:
    return [
        io.Boolean.Input(
            "forecast", default=False, optional=True,
            tooltip="Extrapolate cached values from the last two instead of repeating the last one. Needs twice the "
            "cache memory.",
        ),
        io.Boolean.Input(
            "offload", default=False, optional=True,
            tooltip="Keep cached values in system memory instead of VRAM. Slower.",
        ),
        io.Float.Input(
            "memory_budget", default=0.0, min=0.0, max=1048576.0, step=1.0, optional=True,
            tooltip="Limit of the cache in MiB, or 0 for no limit. If the mask needs more, the blocks that save least "
            "run at every step.",
        ),
    ]  # fmt: skip


class SkipstoneMaskPreview(io.ComfyNode):
    """MODEL and mask in, picture out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What to draw, for how many steps."""
        return io.Schema(
            node_id="SkipstoneMaskPreview",
            display_name="Preview Block Mask",
            category=MASKS,
            description="Draws a mask: steps from left to right, blocks from top to bottom, coloured by whether a block "
            "runs, is reused, or is not needed.",
            inputs=[
                io.Model.Input("model", tooltip="The model whose blocks are drawn."),
                MASK.Input("mask", tooltip="The mask or rule to draw."),
                steps_input("Number of steps to draw."),
            ],
            outputs=[io.Image.Output(tooltip="The drawing, for Preview Image or Save Image.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, steps: int, mask: BlockSkip | None = None) -> io.NodeOutput:
        """The picture; what cannot be drawn is written into it."""
        try:
            made, graph = mask_of(model, _given(mask), steps)
            states = states_of(made, graph)
            title = f"{made.family}, {steps} calls: {int((states == State.RUN).sum())} of {states.size} blocks run"
            return io.NodeOutput(image(heatmap(states, made.blocks, title)))
        except SkipstoneError as error:
            warn(str(error), cls.hidden.unique_id)
            return io.NodeOutput(image(notice(str(error))))


def _given(mask: BlockSkip | None) -> BlockSkip:
    if mask is None:
        raise RecipeError("no mask came in: see the node before")
    return mask


def _line(mask: Mask) -> str:
    return f"{mask.family}, {len(mask.run)} steps x {len(mask.blocks)} blocks, {mask.share:.0%} run"
