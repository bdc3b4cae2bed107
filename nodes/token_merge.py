"""The node "Token Merge (CA-ToMe)"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.recipe.checkpoint_lists import CHECKPOINT_PRESETS
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
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
            description="Faster sampling for SD1.x, SD2.x, SDXL and PixArt: similar tokens are merged before "
            "self-attention. After sampling the node shows how much was merged and saved.",
            inputs=[*_main_inputs(), *map(advanced, _rare_inputs())],
            outputs=[io.Model.Output(tooltip="The model with token merging. The input model is not changed.")],
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
        io.Model.Input("model", tooltip="An SD1.x, SD2.x, SDXL or PixArt model. Other models run unaccelerated."),
        io.Float.Input(
            "threshold", default=0.7, min=-1.0, max=1.0, step=0.01, display_mode=io.NumberDisplay.slider,
            tooltip="Tokens at least this similar (cosine similarity) are merged. The paper uses 0.7; lower values are "
            "faster, 0.9 changes little, and 1 turns merging off.",
        ),
        io.Combo.Input(
            "checkpoints", options=[*CHECKPOINT_PRESETS, CUSTOM], default="config_3",
            tooltip="Steps at which the pairs of similar tokens are searched; they are reused in between. config_3 "
            "searches at about a quarter of the steps, every at all of them.",
        ),
        io.String.Input(
            "custom_checkpoints", default="0, 10, 20, 30, 40", optional=True,
            tooltip="Used when checkpoints is custom: a list of steps from 0 to 50, which is scaled to your number of "
            "steps.",
        ),
    ]  # fmt: skip


def _rare_inputs() -> list[Any]:
    return [
        io.Boolean.Input(
            "proportional", default=False, optional=True,
            tooltip="Weight each merged token by the number of tokens it stands for. Closer to the original image but "
            "slower; works on SD and SDXL with PyTorch attention.",
        ),
        matching_input("merges slightly fewer tokens"),
        max_downsample_input(),
        io.Combo.Input(
            "batch", options=["per_sample", "max"], default="per_sample", optional=True,
            tooltip="How many tokens are merged when a batch has several images. per_sample keeps each image independent "
            "of the others; max merges the largest count in all of them, like the paper's code.",
        ),
        io.Combo.Input(
            "destination", options=["top_left", "random"], default="top_left", optional=True,
            tooltip="Which token of each cell the others are merged into: the top left one, or a random one. The random "
            "choice does not affect your noise seed.",
        ),
        stride_input("merged"),
        *window_inputs("Merging"),
        io.Boolean.Input(
            "merge_cross_attention", default=False, optional=True,
            tooltip="Also merge tokens in cross-attention. This saves little; the paper does not do it.",
        ),
        io.Boolean.Input(
            "merge_mlp", default=False, optional=True,
            tooltip="Also merge tokens in the feed-forward layers. Saves a little more time and loses detail; the paper "
            "does not do it.",
        ),
    ]  # fmt: skip
