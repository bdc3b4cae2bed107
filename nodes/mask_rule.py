"""The node "Block Mask Rule": settings in, mask out."""

from __future__ import annotations

from typing import Any, get_args

from comfy_api.latest import io

from ..core.errors import SkipstoneError
from ..core.recipe_skip import BlockSkip, SkipMode, parse_depths
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
            warn(f"{error}; {UNACCELERATED}", cls.hidden.unique_id)
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
        io.Boolean.Input(
            "split", default=False, optional=True,
            tooltip="Take a U-Net's transformers apart into their single blocks: SDXL has 70. More rows in the mask, "
            "and more memory.",
        ),
    ]  # fmt: skip
