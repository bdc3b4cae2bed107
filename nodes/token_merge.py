"""The node "Token Merge (CA-ToMe)"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from .patch import off, patched
from .serving import supported
from .widgets import Panel, found_by, model_input, shown_fields, writes_on_itself

WIDGETS = Panel(
    {TokenMerge: shown_fields(TokenMerge)},
    (
        "threshold", "checkpoints", "custom_checkpoints", "proportional", "matching", "max_downsample", "batch",
        "destination", "stride", "start", "end", "targets.attn2", "targets.ff", "frames",
    ),
    ids={"targets.attn2": "merge_cross_attention", "targets.ff": "merge_mlp"},
)  # fmt: skip


def build_recipe(**widgets: Any) -> Recipe:
    """The recipe that the widgets stand for. Raises :class:`RecipeError` for a list that cannot be read."""
    return Recipe.of([TokenMerge(**WIDGETS.read(TokenMerge, widgets))])


class SkipstoneTokenMerge(io.ComfyNode):
    """MODEL in, MODEL out: self-attention runs on merged tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model and the settings of token merging."""
        return io.Schema(
            node_id="SkipstoneTokenMerge",
            display_name="Token Merge (CA-ToMe)",
            category="Skipstone",
            description=f"Faster sampling for {supported(TokenMerge.kind)}: similar tokens are merged before "
            "self-attention. After sampling the node shows how much was merged and saved.",
            inputs=[model_input(TokenMerge.kind), *WIDGETS.inputs()],
            outputs=[io.Model.Output(tooltip="The model with token merging. The input model is not changed.")],
            **writes_on_itself(),
            **found_by("tome", "token merging", "ca-tome"),
        )

    @classmethod
    def execute(cls, model: Any, **widgets: Any) -> io.NodeOutput:
        """Patch the model. For a list that cannot be read, the node says so and the model is returned unchanged.

        Args:
            model: the ModelPatcher.
            widgets: values of the widgets by id.
        """
        return patched(
            model, lambda: build_recipe(**widgets), off("these settings merge nothing"), cls.hidden.unique_id
        )
