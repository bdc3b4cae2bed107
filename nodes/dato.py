"""The node "DaTo": token pruning and cache depths in one patch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.models.family import DATO_SCHEDULE
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_prune import TokenPrune
from .controls import CUSTOM
from .patch import off, patched
from .serving import supported
from .widgets import Panel, found_by, model_input, shown_fields, writes_on_itself

AUTO = "auto"

WIDGETS = Panel(
    {
        TokenPrune: shown_fields(TokenPrune, but=("targets",)),
        BlockSkip: ("depths", "forecast", "last_full", "start", "end"),
    },
    (
        "ratio", "depths", "custom_ratio", "recover_from", "gamma", "alpha", "matching", "max_downsample", "stride", "seed",
        "forecast", "last_full", "start", "end",
    ),
    ids={"depths": "custom_depths", "custom_ratio": "custom_ratios", "seed": "draw"},
    common=("depths",),
    tooltips={
        "depths": "Used when preset is custom. {help} Leave it empty for no caching.",
        "recover_from": "{help} auto follows the preset.",
    },
    unset={"recover_from": AUTO, "max_downsample": AUTO},
    when={"depths": ("preset", CUSTOM), "custom_ratio": ("preset", CUSTOM)},
)  # fmt: skip


def build_dato(preset: str = "dato_coco", **widgets: Any) -> Recipe:
    """The recipe that the widgets stand for.

    Args:
        preset: one of the published schedules, or "custom" for the lists in the widgets.
        widgets: values of the other widgets by id. Switches that are off leave what the preset has.

    Raises :class:`RecipeError` for a list that cannot be read.
    """
    given = {name: value for name, value in widgets.items() if not (isinstance(value, str) and not value.strip())}
    if preset != CUSTOM:
        given = {name: value for name, value in given.items() if not name.startswith(CUSTOM)}
    pruning, skipping = WIDGETS.read(TokenPrune, given), WIDGETS.read(BlockSkip, given)
    prune, skip = _custom(skipping) if preset == CUSTOM else _published(preset, pruning)
    if skip is not None:
        skip = replace(skip, **{name: value for name, value in skipping.items() if value is not False})
    methods = [replace(prune, **pruning), skip]
    return Recipe.of((method for method in methods if method is not None), name=preset)


def _published(name: str, pruning: dict[str, Any]) -> tuple[TokenPrune, BlockSkip | None]:
    """A preset's methods. Where it prunes nothing, the ratio is not used."""
    recipe = preset(name)
    prune = recipe.prune or TokenPrune()
    if prune.neutral:
        pruning.pop("ratio", None)
    return prune, recipe.skip


def _custom(skipping: dict[str, Any]) -> tuple[TokenPrune, BlockSkip | None]:
    """The user's own depths; without any there is no caching."""
    depths = skipping.get("depths")
    return TokenPrune(), BlockSkip(rule="depths", depths=depths) if depths else None


class SkipstoneDaTo(io.ComfyNode):
    """MODEL in, MODEL out: some steps repeat or run the last layers only, and self-attention runs on fewer tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model, a preset, and the settings of pruning and skipping."""
        return io.Schema(
            node_id="SkipstoneDaTo",
            display_name="DaTo",
            category="Skipstone",
            description=f"Faster sampling for {supported(DATO_SCHEDULE)}. A schedule decides which steps run the whole model, "
            "only its outer layers, or repeat the step before; self-attention runs on fewer tokens.",
            inputs=[
                model_input(DATO_SCHEDULE, "The schedules were found on SD1.5 at 50 steps."),
                _preset_input(),
                *WIDGETS.inputs(),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The model with the schedule and token pruning. The input model is not changed."
                )
            ],
            **writes_on_itself(),
            **found_by("prune", "token pruning", "deepcache"),
        )

    @classmethod
    def execute(cls, model: Any, **widgets: Any) -> io.NodeOutput:
        """Patch the model. For a list that cannot be read, the node says so and the model is returned unchanged.

        Args:
            model: the ModelPatcher.
            widgets: values of the widgets by id.
        """
        return patched(
            model, lambda: build_dato(**widgets), off("these settings prune and skip nothing"), cls.hidden.unique_id
        )


def _preset_input() -> Any:
    return io.Combo.Input(
        "preset", options=[*DATO, CUSTOM], default="dato_coco",
        tooltip="The paper's schedules, scaled to your number of steps. dato_coco is the fastest and dato_d the most "
        "faithful, dato_reference follows the released code, and dato_gentle is meant for 20 to 30 steps.",
    )  # fmt: skip
