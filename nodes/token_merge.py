"""The node "Token Merge (CA-ToMe)"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.recipe import Recipe, TokenMerge
from ..core.schedule import CHECKPOINT_PRESETS
from .patch import off, patched
from .widgets import WINDOW, advanced, downsample, matching_input, max_downsample_input, stride_input, window_inputs

CUSTOM = "custom"
TARGETS = {"attn2": "merge_cross_attention", "ff": "merge_mlp"}


def build_recipe(
    threshold: float = 0.7,
    checkpoints: str = "config_3",
    custom_checkpoints: str = "",
    max_downsample: str = "auto",
    stride: int = 2,
    **options: Any,
) -> Recipe:
    """The recipe behind the node's widgets. Raises :class:`RecipeError` in one line for what cannot be read."""
    extra = tuple(target for target, widget in TARGETS.items() if options.get(widget))
    named = ("matching", "proportional", "batch", "destination")
    merge = TokenMerge(
        threshold=threshold,
        checkpoints=custom_checkpoints if checkpoints == CUSTOM else checkpoints,
        max_downsample=downsample(max_downsample),
        stride=(stride, stride),
        targets=("attn1", *extra),
        **{name: options[name] for name in named if name in options},
        **{setting: options[widget] for widget, setting in WINDOW.items() if widget in options},
    )
    return Recipe(merge=merge)


class SkipstoneTokenMerge(io.ComfyNode):
    """MODEL in, MODEL out: self-attention runs on merged tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, their ranges and their tooltips."""
        return io.Schema(
            node_id="SkipstoneTokenMerge",
            display_name="Token Merge (CA-ToMe)",
            category="Skipstone",
            description="Faster sampling for SD1.x, SD2.x, SDXL and PixArt: self-attention runs on fewer tokens. "
            "After sampling the node shows what was merged and saved.",
            inputs=[*_main_inputs(), *map(advanced, _rare_inputs())],
            outputs=[io.Model.Output(tooltip="The same model, sampling on merged tokens. The input stays as it was.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, **widgets: Any) -> io.NodeOutput:
        """Patch the model. What cannot be read is told on the node, and the model passes through as it is."""
        return patched(
            model, lambda: build_recipe(**widgets), off("these settings merge nothing"), cls.hidden.unique_id
        )


def _main_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="SD1.x, SD2.x, SDXL or PixArt. Other models pass through and come out dense."),
        io.Float.Input(
            "threshold", default=0.7, min=-1.0, max=1.0, step=0.01, display_mode=io.NumberDisplay.slider,
            tooltip="Tokens at least this similar (cosine, -1 to 1) are merged. 0.7 is the paper's choice; lower is "
            "faster, 0.9 is careful, 1 is off.",
        ),
        io.Combo.Input(
            "checkpoints", options=[*CHECKPOINT_PRESETS, CUSTOM], default="config_3",
            tooltip="Steps at which pairs are searched anew; between them they are reused. Of 51 steps config_3 searches "
            "at 13, config_1 at 9, every at 51. Lists are stretched to your number of steps.",
        ),
        io.String.Input(
            "custom_checkpoints", default="0, 10, 20, 30, 40", optional=True,
            tooltip="Read only when checkpoints is custom: steps from 0 to 50, as if you sampled 51 steps.",
        ),
    ]  # fmt: skip


def _rare_inputs() -> list[Any]:
    return [
        io.Boolean.Input(
            "proportional", default=False, optional=True,
            tooltip="Let a merged token weigh as much as the tokens it stands for: closer to the original, attention "
            "about 4 % slower. SD and SDXL with pytorch attention; elsewhere the node says that it is off.",
        ),
        matching_input("merges a little less"),
        max_downsample_input(),
        io.Combo.Input(
            "batch", options=["per_sample", "max"], default="per_sample", optional=True,
            tooltip="For batches of 2 and more. per_sample: each image merges its own count, so that it never depends on "
            "the others. max: all merge the largest count, as the paper's code does.",
        ),
        io.Combo.Input(
            "destination", options=["top_left", "random"], default="top_left", optional=True,
            tooltip="The 1 token of each cell that others merge into: its top left one, or one drawn at each search. "
            "The draw has its own seed; your noise stays the same.",
        ),
        stride_input("75 % of the tokens can merge at 2, 89 % at 3, 94 % at 4"),
        *window_inputs("Merge"),
        io.Boolean.Input(
            "merge_cross_attention", default=False, optional=True,
            tooltip="Merge in cross-attention too. Saves less than 1 % of an SD1.5 step more; the paper leaves it dense.",
        ),
        io.Boolean.Input(
            "merge_mlp", default=False, optional=True,
            tooltip="Merge in the feed-forward layer too. Saves about 3 % of an SD1.5 step more at 512 px with half of "
            "the tokens merged, and costs detail; the paper leaves it dense.",
        ),
    ]  # fmt: skip
