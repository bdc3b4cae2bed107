"""The node "Block Mask Rule"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.errors import SkipstoneError
from ..core.recipe.block_skip import BlockSkip
from .messages import UNACCELERATED, warn
from .widgets import MASK, MASKS, Panel, found_by, shown_fields, writes_on_itself

CACHE_FIELDS = ("forecast", "offload", "memory_budget")
"""How cached values are kept: settings of Block Mask, whatever the mask."""
TOOLTIPS, WHEN = {"depths": "Used when rule is depths. {help}"}, {"depths": ("rule", "depths")}
RULE_FIELDS = shown_fields(BlockSkip, but=("mask", *CACHE_FIELDS))

WIDGETS = Panel(
    {BlockSkip: RULE_FIELDS},
    ("rule", "every", "branch", "mode", "depths", "last_full", "caching", "split", "start", "end"),
    tooltips=TOOLTIPS,
    when=WHEN,
)


def build_rule(**widgets: Any) -> BlockSkip:
    """The settings that the widgets stand for. Raises :class:`RecipeError` for a list that cannot be read."""
    if widgets.get("rule") != "depths":
        widgets.pop("depths", None)
    return BlockSkip(**WIDGETS.read(BlockSkip, widgets))


class SkipstoneMaskRule(io.ComfyNode):
    """Settings in, mask out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The settings of a rule."""
        return io.Schema(
            node_id="SkipstoneMaskRule",
            display_name="Block Mask Rule",
            category=MASKS,
            description="Makes a mask from a published caching rule: which blocks run at which step, and which reuse "
            "their cached output. Connect it to Block Mask.",
            inputs=WIDGETS.inputs(),
            outputs=[MASK.Output(display_name="mask", tooltip="A mask for any model and any number of steps.")],
            **writes_on_itself(),
            **found_by("deepcache", "fora"),
        )

    @classmethod
    def execute(cls, **widgets: Any) -> io.NodeOutput:
        """Make the mask. For a list that cannot be read, the node says so and its output is None."""
        try:
            return io.NodeOutput(build_rule(**widgets))
        except SkipstoneError as error:
            warn(f"{error}; {UNACCELERATED}", cls.hidden.unique_id)
            return io.NodeOutput(None)
