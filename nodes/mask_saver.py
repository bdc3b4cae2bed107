"""The node "Save Block Mask"."""

from __future__ import annotations

import os
from typing import Any

from comfy_api.latest import io

from ..core.errors import SkipstoneError
from ..core.recipe.block_skip import BlockSkip
from .files import MASK_FILES
from .masks import mask_of, summary
from .messages import show_on_node, warn
from .widgets import MASK, MASKS, prefix_input, steps_input, writes_on_itself


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
                steps_input(
                    "Number of steps to save the mask for. A mask that already has this many steps is saved unchanged."
                ),
                prefix_input("mask"),
            ],
            **writes_on_itself(),
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, steps: int, filename_prefix: str, mask: BlockSkip | None = None) -> io.NodeOutput:
        """Write the file, and show its name and content on the node.

        Args:
            model: the ModelPatcher.
            steps: number of calls.
            filename_prefix: start of the file name.
            mask: a rule or a mask; None if the node before failed.
        """
        node_id = cls.hidden.unique_id
        try:
            made, _ = mask_of(model, mask, steps)
            path = MASK_FILES.new_path(filename_prefix)
            made.save(path)
            show_on_node(f"{os.path.basename(path)}: {summary(made)}", node_id)
        except SkipstoneError as error:
            warn(f"{error}; nothing was saved", node_id)
        return io.NodeOutput()
