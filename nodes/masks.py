"""The nodes of block masks: a rule or a file makes a mask; it is put on a model, saved, or drawn."""

from __future__ import annotations

import os
from typing import Any, get_args

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image, ImageDraw

from ..core.errors import RecipeError, SkipstoneError
from ..core.evaluate.heatmap import heatmap
from ..core.plan.liveness import State
from ..core.plan.mask import Mask
from ..core.recipe import Recipe
from ..core.recipe_skip import BlockSkip, SkipMode, parse_depths
from .mask_store import FOLDER, mask_names, mask_of, mask_path, new_path, states_of
from .messages import show_on_node, warn
from .patch import patch_model
from .widgets import MASK, advanced, window_inputs

RULES = ("deepcache", "interval", "fora", "depths")
CATEGORY = "Skipstone/masks"


def build_rule(
    rule: str = "deepcache", depths: str = "", start_percent: float = 0.0, end_percent: float = 1.0, **options: Any
) -> BlockSkip:
    """The settings behind the rule node's widgets. Raises :class:`RecipeError` in one line for what cannot be read."""
    codes = parse_depths(depths) if rule == "depths" else ()
    return BlockSkip(rule=rule, depths=codes, start=start_percent, end=end_percent, **options)  # type: ignore[arg-type]


class SkipstoneMaskRule(io.ComfyNode):
    """Settings in, mask out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, their ranges and their tooltips."""
        return io.Schema(
            node_id="SkipstoneMaskRule",
            display_name="Block Mask Rule",
            category=CATEGORY,
            description="Says by a published rule which blocks of a model run at which step; the others hand out "
            "their cached output. Give the mask to Block Mask.",
            inputs=[*_rule_inputs(), *map(advanced, [*_rare_rule_inputs(), *window_inputs("Skip")])],
            outputs=[MASK.Output(display_name="mask", tooltip="1 mask for any model and any number of steps.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **widgets: Any) -> io.NodeOutput:
        """What cannot be read is told on the node; no mask is handed on."""
        try:
            return io.NodeOutput(build_rule(**widgets))
        except SkipstoneError as error:
            warn(f"{error}; the image comes dense", cls.hidden.unique_id)
            return io.NodeOutput(None)


def _rule_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "rule", options=list(RULES), default="deepcache",
            tooltip="deepcache runs the outermost layers between full steps (U-Nets). interval and fora run 0 blocks "
            "between them (fora is the paper's name for it on DiT and PixArt). depths takes one code per step.",
        ),
        io.Int.Input(
            "every", default=3, min=1, max=100,
            tooltip="A full step each so many steps. 3 saves up to 61 % of SD1.5's multiply-adds with deepcache, 5 up to "
            "74 %; 1 runs every step in full. Not read by depths.",
        ),
    ]  # fmt: skip


def _rare_rule_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "branch", default=0, min=0, max=64, optional=True,
            tooltip="DeepCache's skip branch: 0 runs least between full steps, SD1.5 has 0 to 11. In a transformer "
            "the last block's number that still runs.",
        ),
        io.Combo.Input(
            "mode", options=list(get_args(SkipMode)), default="uniform", optional=True,
            tooltip="For deepcache: full steps at equal distances, or quad: as many, but denser round the first 30 % of the run.",
        ),
        io.String.Input(
            "depths", default="12, 1, 1, 0", optional=True,
            tooltip="Read only when rule is depths: 0 repeats the step before, 1 runs the outermost level, 10 and more "
            "run all. Stretched to your number of steps.",
        ),
        io.Boolean.Input(
            "last_full", default=False, optional=True,
            tooltip="Run every block at the last 1 of the steps, which removes left-over noise.",
        ),
        io.Combo.Input(
            "caching", options=["auto", "output", "branch"], default="auto", optional=True,
            tooltip="What is kept: 1 block's output, or the branch that it adds to its input. auto is output on U-Nets "
            "and branch on transformers.",
        ),
    ]  # fmt: skip


class SkipstoneMaskLoader(io.ComfyNode):
    """A mask file in, mask out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One list of files."""
        return io.Schema(
            node_id="SkipstoneMaskLoader",
            display_name="Load Block Mask",
            category=CATEGORY,
            description="Reads a mask file: which blocks of one kind of model run at which step.",
            inputs=[
                io.Combo.Input(
                    "file", options=mask_names(),
                    tooltip=f"A .safetensors mask in models/{FOLDER} or output/{FOLDER}. A mask of 20 steps is mapped to "
                    "your number of steps.",
                )
            ],
            outputs=[MASK.Output(display_name="mask", tooltip="The mask, for the 1 kind of model it was made for.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """A file that is no mask is told on the node; no mask is handed on."""
        try:
            mask = Mask.load(mask_path(file))
        except SkipstoneError as error:
            warn(f"{error}; the image comes dense", cls.hidden.unique_id)
            return io.NodeOutput(None)
        show_on_node(_line(mask), cls.hidden.unique_id)
        return io.NodeOutput(BlockSkip(mask=mask))

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        """A file that changed is read anew."""
        try:
            return os.path.getmtime(mask_path(file))
        except (SkipstoneError, OSError):
            return 0.0


class SkipstoneMaskSaver(io.ComfyNode):
    """A mask and a model in, a mask file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What to save, for how many steps, under which name."""
        return io.Schema(
            node_id="SkipstoneMaskSaver",
            display_name="Save Block Mask",
            category=CATEGORY,
            description=f"Writes a mask for this model into output/{FOLDER}. Load Block Mask finds it there.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the mask is for; 1 file serves 1 kind of model."),
                MASK.Input("mask", tooltip="1 rule, or 1 loaded mask, which is mapped to the number of steps below."),
                _steps_input("steps", "Steps that the file describes, evenly spaced. 20 is a usual run."),
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
            path = new_path(filename_prefix)
            made.save(path)
            show_on_node(f"{os.path.basename(path)}: {_line(made)}", node_id)
        except (SkipstoneError, OSError) as error:
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
                    tooltip="SD1.x, SD2.x, SDXL, PixArt, SD3, Flux or Chroma. Other models pass through and come out dense.",
                ),
                MASK.Input("mask", tooltip="From Block Mask Rule or Load Block Mask. 1 mask per model: a later one replaces it."),
            ],
            outputs=[io.Model.Output(tooltip="The same model, skipping blocks. The input stays as it was.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, mask: BlockSkip | None = None) -> io.NodeOutput:
        """Patch the model; without a mask it passes through as it is."""
        node_id = cls.hidden.unique_id
        if mask is None:
            warn("no mask came in, see the node before; the image comes dense", node_id)
            return io.NodeOutput(model)
        if mask.neutral:
            show_on_node("off: these settings skip nothing", node_id)
        return io.NodeOutput(patch_model(model, Recipe(skip=mask), node_id))


class SkipstoneMaskPreview(io.ComfyNode):
    """MODEL and mask in, picture out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What to draw, for how many steps."""
        return io.Schema(
            node_id="SkipstoneMaskPreview",
            display_name="Preview Block Mask",
            category=CATEGORY,
            description="Draws a mask: steps from left to right, blocks from top to bottom; what runs, what is reused, "
            "and what nobody needs.",
            inputs=[
                io.Model.Input("model", tooltip="The model whose blocks are drawn: 1 row each."),
                MASK.Input("mask", tooltip="From Block Mask Rule or Load Block Mask; 1 colour per block and step."),
                _steps_input("steps", "Steps to draw, evenly spaced. 20 is a usual run."),
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
            return io.NodeOutput(_image(heatmap(states, made.blocks, title)))
        except SkipstoneError as error:
            warn(str(error), cls.hidden.unique_id)
            return io.NodeOutput(_image(_notice(str(error))))


def _steps_input(name: str, tooltip: str) -> Any:
    return io.Int.Input(name, default=20, min=1, max=1000, tooltip=tooltip)


def _given(mask: BlockSkip | None) -> BlockSkip:
    if mask is None:
        raise RecipeError("no mask came in: see the node before")
    return mask


def _line(mask: Mask) -> str:
    return f"{mask.family}, {len(mask.run)} steps x {len(mask.blocks)} blocks, {mask.share:.0%} run"


def _image(picture: Image.Image) -> torch.Tensor:
    """ComfyUI's IMAGE: [1, H, W, 3] in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0)[None]


def _notice(text: str) -> Image.Image:
    picture = Image.new("RGB", (max(360, 7 * len(text)), 40), (255, 255, 255))
    ImageDraw.Draw(picture).text((10, 14), text, fill=(40, 40, 48))
    return picture
