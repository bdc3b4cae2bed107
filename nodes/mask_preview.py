"""The node "Preview Block Mask"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.errors import SkipstoneError
from ..core.plan.heatmap import heatmap
from ..core.plan.liveness import State
from ..core.plan.mask_states import states_of
from ..core.recipe.block_skip import BlockSkip
from .masks import mask_of
from .messages import warn
from .pictures import image, notice
from .widgets import MASK, MASKS, steps_input, writes_on_itself


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
            **writes_on_itself(),
        )

    @classmethod
    def execute(cls, model: Any, steps: int, mask: BlockSkip | None = None) -> io.NodeOutput:
        """Draw the mask; if it cannot be drawn, the picture says why.

        Args:
            model: the ModelPatcher.
            steps: number of calls.
            mask: a rule or a mask; None if the node before failed.
        """
        try:
            made, graph = mask_of(model, mask, steps)
            states = states_of(made, graph)
            title = f"{made.family}, {steps} calls: {int((states == State.RUN).sum())} of {states.size} blocks run"
            return io.NodeOutput(image(heatmap(states, made.blocks, title)))
        except SkipstoneError as error:
            warn(str(error), cls.hidden.unique_id)
            return io.NodeOutput(image(notice(str(error))))
