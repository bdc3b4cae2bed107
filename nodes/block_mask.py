"""The node "Block Mask"."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.recipe import Recipe
from .messages import UNACCELERATED, show_on_node, warn
from .patch import patch_model
from .widgets import MASK, Panel, model_input

CACHE_FIELDS = ("forecast", "offload", "memory_budget")
"""How cached values are kept: settings of this node, whatever the mask."""

WIDGETS = Panel({BlockSkip: CACHE_FIELDS}, CACHE_FIELDS)


class SkipstoneBlockMask(io.ComfyNode):
    """MODEL and mask in, MODEL out: blocks run, or return their cached output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Two sockets and the settings of the cache."""
        return io.Schema(
            node_id="SkipstoneBlockMask",
            display_name="Block Mask",
            category="Skipstone",
            description="Faster sampling: at each step only the blocks chosen by the mask run, and the others reuse "
            "their cached output. After sampling the node shows what ran and what was saved.",
            inputs=[
                model_input(BlockSkip.kind),
                MASK.Input(
                    "mask",
                    tooltip="A mask from Block Mask Rule, Load Block Mask or Train Block Mask. A second Block Mask on "
                    "the same model replaces the first.",
                ),
                *WIDGETS.inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model with block skipping. The input model is not changed.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, mask: BlockSkip | None = None, **widgets: Any) -> io.NodeOutput:
        """Patch the model. For a mask or values that cannot run, the node says so and the model is returned unchanged.

        Args:
            model: the ModelPatcher.
            mask: a rule or a mask; None if the node before failed.
            widgets: values of the other widgets by id.
        """
        node_id = cls.hidden.unique_id
        if mask is None:
            warn(f"no mask came in, see the node before; {UNACCELERATED}", node_id)
            return io.NodeOutput(model)
        if mask.neutral:
            show_on_node("off: these settings skip nothing", node_id)
        skip = replace(mask, **WIDGETS.read(BlockSkip, widgets))
        return io.NodeOutput(patch_model(model, Recipe.of([skip]), node_id))
