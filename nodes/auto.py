"""The node "Skipstone": one number, and the rest follows."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.models import unwrapped
from ..core.models.family import identity
from ..core.recipe.auto import LEVELS, Auto
from ..core.recipe.recipe import Recipe
from .controls import CUSTOM
from .files import PROFILE_FILES
from .patch import off, patched, recipe_on
from .widgets import RECIPE, Panel, advanced, found_by, model_input, shown_fields, writes_on_itself

_NONE, _RECORDED = "none", "record from the next picture"

WIDGETS = Panel(
    {Auto: shown_fields(Auto, but=("profile", "record"))},
    ("speedup", "max_error", "guard"),
    tooltips={"speedup": "{help} Used when level is custom."},
    when={"speedup": ("level", CUSTOM)},
)


def build_auto(model: Any, level: str, profile_file: str = _NONE, **widgets: Any) -> Recipe:
    """The recipe that the widgets stand for. Raises :class:`SkipstoneError` for values that cannot run.

    Args:
        model: the ModelPatcher, whose network a recorded profile is of.
        level: name of a speed-up, or "custom".
        profile_file: name of a profile file, or how to get one.
        widgets: the values of :data:`WIDGETS`.
    """
    values = WIDGETS.read(Auto, widgets)
    if level != CUSTOM:
        values["speedup"] = LEVELS[level]
    return Recipe.of([Auto(**{**values, **_profile(model, profile_file)})])


def _profile(model: Any, chosen: str) -> dict[str, Any]:
    if chosen in (_NONE, PROFILE_FILES.none_yet):
        return {}
    if chosen == _RECORDED:
        name = identity(unwrapped(model.model.diffusion_model)).replace(" ", "_")
        return {"profile": PROFILE_FILES.saved_path(name), "record": True}
    return {"profile": PROFILE_FILES.path(chosen)}


class SkipstoneAuto(io.ComfyNode):
    """MODEL in, MODEL out: faster by one number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model, a level, and what is needed to be precise."""
        files = [name for name in PROFILE_FILES.names() if name != PROFILE_FILES.none_yet]
        return io.Schema(
            node_id="SkipstoneAuto",
            display_name="Skipstone",
            category="Skipstone",
            description="Faster sampling for any model by one choice. The model runs at some of the steps only, and its output "
            "at the others is forecast. After sampling the node shows what was chosen and what it saved.",
            inputs=[
                model_input("", "Runs of 8 steps and fewer are not accelerated."),
                io.Combo.Input(
                    "level",
                    options=[*LEVELS, CUSTOM],
                    default="balanced",
                    tooltip="gentle runs the model at 1 of 1.3 steps, balanced at 1 of 1.8, fast at 1 of 2.5.",
                ),
                *WIDGETS.released(),
                advanced(
                    io.Combo.Input(
                        "profile_file",
                        options=[_NONE, _RECORDED, *files],
                        default=_NONE,
                        optional=True,
                        tooltip="What is known of this model: a file from models/skipstone_profiles (made by skipstone "
                        "profile), or recorded from one picture in full.",
                    )
                ),
                *WIDGETS.later(),
            ],
            outputs=[
                io.Model.Output(tooltip="The accelerated model. The input model is not changed."),
                RECIPE.Output(
                    display_name="recipe",
                    tooltip="These settings, for Save Recipe. The calls are chosen in the run: Run Report's recipe has them.",
                ),
            ],
            **writes_on_itself(),
            **found_by("teacache", "easycache", "skip step"),
        )

    @classmethod
    def execute(cls, model: Any, **widgets: Any) -> io.NodeOutput:
        """Patch the model. For values that cannot run, the node says so and the model is returned as it is.

        Args:
            model: the ModelPatcher.
            widgets: the values of the other inputs.
        """
        made = patched(model, lambda: build_auto(model, **widgets), off("a speed-up of 1"), cls.hidden.unique_id)
        (accelerated,) = made.args
        auto = recipe_on(accelerated).auto if accelerated is not model else None
        return io.NodeOutput(accelerated, Recipe(auto=auto))
