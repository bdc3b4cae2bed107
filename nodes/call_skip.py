"""The node "Call Skip"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.recipe.call_skip import CallSkip
from ..core.recipe.recipe import Recipe
from .patch import off, patched
from .widgets import Panel, found_by, model_input, shown_fields, writes_on_itself

WIDGETS = Panel(
    {CallSkip: shown_fields(CallSkip, but=("profile",))},
    (
        "speedup", "calls", "every", "keys", "rule", "space", "predictor", "warmup", "tail", "max_gap", "threshold", "start",
        "end",
    ),
    empty=("keys",),
)  # fmt: skip


def build_calls(**widgets: Any) -> Recipe:
    """The recipe that the widgets stand for. Raises :class:`RecipeError` for values that cannot run."""
    return Recipe.of([CallSkip(**WIDGETS.read(CallSkip, widgets))])


class SkipstoneCallSkip(io.ComfyNode):
    """MODEL in, MODEL out: the model runs at some steps only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model and the settings of call skipping."""
        return io.Schema(
            node_id="SkipstoneCallSkip",
            display_name="Call Skip",
            category="Skipstone",
            description="Faster sampling for any model: it runs at some of the steps only, and its output at the others is "
            "forecast from earlier ones. After sampling the node shows how many calls ran.",
            inputs=[
                model_input("", "Runs of 8 steps and fewer are not accelerated."),
                *WIDGETS.inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The model with call skipping. The input model is not changed.")],
            **writes_on_itself(),
            **found_by("teacache", "easycache", "spectrum", "taylorseer", "skip step"),
        )

    @classmethod
    def execute(cls, model: Any, **widgets: Any) -> io.NodeOutput:
        """Patch the model. For values that cannot run, the node says so and the model is returned as it is.

        Args:
            model: the ModelPatcher.
            widgets: the values of the other inputs.
        """
        return patched(model, lambda: build_calls(**widgets), off("these settings skip nothing"), cls.hidden.unique_id)
