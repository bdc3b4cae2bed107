"""The node "Block Mask"."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.errors import MaskError
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.recipe import Recipe
from .mask_rule import CACHE_FIELDS, RULE_FIELDS, TOOLTIPS, WHEN, build_rule
from .patch import off, patched
from .widgets import MASK, Panel, found_by, model_input, writes_on_itself

CACHE = Panel({BlockSkip: CACHE_FIELDS}, CACHE_FIELDS)
RULE = Panel({BlockSkip: RULE_FIELDS}, common=("depths",), tooltips=TOOLTIPS, when=WHEN)
"""The widgets of Block Mask Rule, which may be left out."""

_UNCONNECTED = BlockSkip()


def build_skip(mask: BlockSkip | None, **widgets: Any) -> Recipe:
    """The recipe of a mask, or of the rule in the widgets. Raises :class:`SkipstoneError` for what cannot be read.

    Args:
        mask: a rule or a mask; None if the node before failed.
        widgets: values of the widgets by id.
    """
    if mask is None:
        raise MaskError("no mask came in, see the node before")
    skip = build_rule(**widgets) if mask is _UNCONNECTED else mask
    return Recipe.of([replace(skip, **CACHE.read(BlockSkip, widgets))])


class SkipstoneBlockMask(io.ComfyNode):
    """MODEL in, and a mask or a rule, MODEL out: blocks run, or return their cached output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model, a mask or a rule, and the settings of the cache."""
        return io.Schema(
            node_id="SkipstoneBlockMask",
            display_name="Block Mask",
            category="Skipstone",
            description="Faster sampling: at each step only the blocks chosen by a rule or a mask run, and the others reuse "
            "their cached output. After sampling the node shows what ran and what was saved.",
            inputs=[
                model_input(BlockSkip.kind),
                MASK.Input(
                    "mask",
                    optional=True,
                    tooltip="A mask from Load Block Mask or Train Block Mask, in place of the rule below. A second Block "
                    "Mask on the same model replaces the first.",
                ),
                *CACHE.inputs(),
                *RULE.inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model with block skipping. The input model is not changed.")],
            **writes_on_itself(),
            **found_by("deepcache", "fora", "skip blocks"),
        )

    @classmethod
    def execute(cls, model: Any, mask: BlockSkip | None = _UNCONNECTED, **widgets: Any) -> io.NodeOutput:
        """Patch the model. For a mask or values that cannot run, the node says so and the model is returned unchanged.

        Args:
            model: the ModelPatcher.
            mask: a rule or a mask, in place of the rule in the widgets; None if the node before failed.
            widgets: values of the widgets by id.
        """
        return patched(
            model, lambda: build_skip(mask, **widgets), off("these settings skip nothing"), cls.hidden.unique_id
        )
