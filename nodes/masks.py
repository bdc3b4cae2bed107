"""The nodes of block masks: a mask is read from a file, put on a model, saved, or drawn."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.errors import RecipeError, SkipstoneError
from ..core.evaluate.heatmap import heatmap
from ..core.plan.liveness import State
from ..core.plan.mask import Mask
from ..core.recipe import Recipe
from ..core.recipe_skip import BlockSkip
from .mask_store import mask_of, states_of
from .messages import UNACCELERATED, show_on_node, warn
from .patch import patch_model
from .pictures import image, notice
from .shelf import MASK_FILES
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
            description="Reads a mask file: which blocks of one kind of model run at which step.",
            inputs=[
                io.Combo.Input(
                    "file", options=MASK_FILES.names(),
                    tooltip=f"A {MASK_FILES.suffix} mask in models/{MASK_FILES.folder} or output/{MASK_FILES.folder}. A mask "
                    "of 20 steps is mapped to your number of steps.",
                )
            ],
            outputs=[MASK.Output(display_name="mask", tooltip="The mask, for the 1 kind of model it was made for.")],
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
            description=f"Writes a mask for this model into output/{MASK_FILES.folder}. Load Block Mask finds it there.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the mask is for; 1 file serves 1 kind of model."),
                MASK.Input("mask", tooltip="1 rule, or 1 loaded mask, which is mapped to the number of steps below."),
                steps_input("Steps that the file describes, evenly spaced. 20 is a usual run."),
                io.String.Input(
                    "filename_prefix", default="mask",
                    tooltip="Start of the file's name; a number such as 00001 is added.",
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
            description="Faster sampling: at each step only the blocks that the mask names run, the others hand out "
            "their cached output. After sampling the node shows what ran and what was saved.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="SD1.x, SD2.x, SDXL, SVD, PixArt, SD3, Flux or Chroma. Other models pass through and come out dense.",
                ),
                MASK.Input("mask", tooltip="From Block Mask Rule or Load Block Mask. 1 mask per model: a later one replaces it."),
                *map(advanced, _memory_inputs()),
            ],
            outputs=[io.Model.Output(tooltip="The same model, skipping blocks. The input stays as it was.")],
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
            tooltip="Continue what is kept in a straight line over its last 2 values instead of repeating the last. Doubles "
            "the memory.",
        ),
        io.Boolean.Input(
            "offload", default=False, optional=True,
            tooltip="What is kept waits in the CPU's memory: 0 MiB on the GPU between steps, and slower.",
        ),
        io.Float.Input(
            "memory_budget", default=0.0, min=0.0, max=1048576.0, step=1.0, optional=True,
            tooltip="Most MiB to keep; 0 is no limit. Where a mask needs more, the blocks that save least per byte run at "
            "every step.",
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
            description="Draws a mask: steps from left to right, blocks from top to bottom; what runs, what is reused, "
            "and what nobody needs.",
            inputs=[
                io.Model.Input("model", tooltip="The model whose blocks are drawn: 1 row each."),
                MASK.Input("mask", tooltip="From Block Mask Rule or Load Block Mask; 1 colour per block and step."),
                steps_input("Steps to draw, evenly spaced. 20 is a usual run."),
            ],
            outputs=[io.Image.Output(tooltip="A picture with 1 column per step. Give it to Preview Image.")],
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
