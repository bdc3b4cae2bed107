"""The node "Block Mask Rule": settings in, mask out."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.latest import io

from ..core.errors import SkipstoneError
from ..core.recipe.block_skip import BlockSkip, SkipMode, parse_depths
from .messages import UNACCELERATED, warn
from .widgets import MASK, MASKS, WINDOW, advanced, window_inputs

RULES = ("deepcache", "interval", "fora", "depths")


def build_rule(rule: str = "deepcache", depths: str = "", **options: Any) -> BlockSkip:
    """The settings behind the rule node's widgets. Raises :class:`RecipeError` in one line for what cannot be read."""
    codes = parse_depths(depths) if rule == "depths" else ()
    settings = {WINDOW.get(widget, widget): value for widget, value in options.items()}
    return BlockSkip(rule=rule, depths=codes, **settings)  # type: ignore[arg-type]


class SkipstoneMaskRule(io.ComfyNode):
    """Settings in, mask out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, their ranges and their tooltips."""
        return io.Schema(
            node_id="SkipstoneMaskRule",
            display_name="Block Mask Rule",
            category=MASKS,
            description="Makes a mask from a published caching rule: which blocks run at which step, and which reuse "
            "their cached output. Connect it to Block Mask.",
            inputs=[*_rule_inputs(), *map(advanced, [*_rare_rule_inputs(), *window_inputs("Skipping")])],
            outputs=[MASK.Output(display_name="mask", tooltip="A mask for any model and any number of steps.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **widgets: Any) -> io.NodeOutput:
        """What cannot be read is told on the node; no mask is handed on."""
        try:
            return io.NodeOutput(build_rule(**widgets))
        except SkipstoneError as error:
            warn(f"{error}; {UNACCELERATED}", cls.hidden.unique_id)
            return io.NodeOutput(None)


def _rule_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "rule", options=list(RULES), default="deepcache",
            tooltip="deepcache runs only the outer layers of a U-Net between full steps. interval and fora repeat the "
            "whole model between full steps (fora is the name used for transformers). depths takes a list.",
        ),
        io.Int.Input(
            "every", default=3, min=1, max=100,
            tooltip="Run the whole model every so many steps: 2 is careful, 3 the usual choice, 5 fast, and 1 skips "
            "nothing. Not used by depths.",
        ),
    ]  # fmt: skip


def _rare_rule_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "branch", default=0, min=0, max=64, optional=True,
            tooltip="How many layers deepcache still runs between full steps; 0 runs the fewest. In transformers, the "
            "number of the last block that still runs.",
        ),
        io.Combo.Input(
            "mode", options=list(get_args(SkipMode)), default="uniform", optional=True,
            tooltip="Spacing of deepcache's full steps: uniform, or quad for more of them early in the run.",
        ),
        io.String.Input(
            "depths", default="12, 1, 1, 0", optional=True,
            tooltip="Used when rule is depths: one number per step, scaled to your number of steps. 0 repeats the step "
            "before, 1 runs the outermost layers, 10 or more runs everything.",
        ),
        io.Boolean.Input(
            "last_full", default=False, optional=True,
            tooltip="Run the whole model at the last step, which removes residual noise.",
        ),
        io.Combo.Input(
            "caching", options=["auto", "output", "branch"], default="auto", optional=True,
            tooltip="What is cached: a block's output, or only what the block adds to its input. auto picks output for "
            "U-Nets and branch for transformers.",
        ),
        io.Boolean.Input(
            "split", default=False, optional=True,
            tooltip="Treat each transformer block inside a U-Net separately (SDXL has 70). Finer control, more cache "
            "memory.",
        ),
    ]  # fmt: skip
