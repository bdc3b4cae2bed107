"""The node "DaTo": token pruning and cache depths in one patch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.recipe.block_skip import BlockSkip, parse_depths
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_prune import TokenPrune, parse_ratios
from .patch import off, patched
from .widgets import WINDOW, advanced, downsample, matching_input, max_downsample_input, stride_input, window_inputs

CUSTOM = "custom"
AUTO = "auto"
_SKIPS = ("forecast", "last_full")
_PRUNES = ("gamma", "alpha", "matching")


def build_dato(
    preset: str = "dato_coco", ratio: float = 0.4, custom_depths: str = "", custom_ratios: str = "", **rare: Any
) -> Recipe:
    """The recipe behind the node's widgets. Raises :class:`RecipeError` in one line for what cannot be read."""
    if preset == CUSTOM:
        prune, skip = _custom(ratio, custom_depths, custom_ratios)
    else:
        prune, skip = _published(preset, ratio)
    window = {setting: rare[widget] for widget, setting in WINDOW.items() if widget in rare}
    if skip is not None:
        skip = replace(skip, **window, **{name: rare[name] for name in _SKIPS if rare.get(name)})
    return Recipe(prune=replace(prune, **window, **_prune_settings(rare)), skip=skip, name=preset)


def _published(name: str, ratio: float) -> tuple[TokenPrune, BlockSkip | None]:
    """As the preset has it, at the slider's ratio; one that prunes nothing goes on doing so."""
    recipe = preset(name)
    prune = recipe.prune or TokenPrune()
    return prune if prune.neutral else replace(prune, ratio=ratio), recipe.skip


def _custom(ratio: float, depths: str, ratios: str) -> tuple[TokenPrune, BlockSkip | None]:
    """Lists of the user. An empty one is none: no caching, or the slider's ratio at every step."""
    prune = TokenPrune(ratio=parse_ratios(ratios) if ratios.strip() else ratio)
    return prune, BlockSkip(rule="depths", depths=parse_depths(depths)) if depths.strip() else None


def _prune_settings(rare: dict[str, Any]) -> dict[str, Any]:
    """Settings of the rare widgets; `auto` leaves what the preset has."""
    settings = {name: rare[name] for name in _PRUNES if name in rare}
    if "stride" in rare:
        settings["stride"] = (rare["stride"], rare["stride"])
    if rare.get("recover_from", AUTO) != AUTO:
        settings["recover_from"] = rare["recover_from"]
    if rare.get("max_downsample", AUTO) != AUTO:
        settings["max_downsample"] = downsample(rare["max_downsample"])
    if "draw" in rare:
        settings["seed"] = rare["draw"]
    return settings


class SkipstoneDaTo(io.ComfyNode):
    """MODEL in, MODEL out: some steps repeat or run the last layers only, and self-attention runs on pruned tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, their ranges and their tooltips."""
        return io.Schema(
            node_id="SkipstoneDaTo",
            display_name="DaTo",
            category="Skipstone",
            description="Faster sampling for SD1.x, SD2.x and SDXL. A schedule decides which steps run the whole model, "
            "only its outer layers, or repeat the step before; self-attention runs on fewer tokens.",
            inputs=[*_main_inputs(), *map(advanced, _rare_inputs())],
            outputs=[
                io.Model.Output(
                    tooltip="The model with the schedule and token pruning. The input model is not changed."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, **widgets: Any) -> io.NodeOutput:
        """Patch the model. What cannot be read is told on the node, and the model passes through as it is."""
        return patched(
            model, lambda: build_dato(**widgets), off("these settings prune and skip nothing"), cls.hidden.unique_id
        )


def _main_inputs() -> list[Any]:
    return [
        io.Model.Input("model", tooltip="An SD1.x, SD2.x or SDXL model. The schedules were found on SD1.5 at 50 steps."),
        io.Combo.Input(
            "preset", options=[*DATO, CUSTOM], default="dato_coco",
            tooltip="The paper's schedules, scaled to your number of steps. dato_coco is the fastest and dato_d the most "
            "faithful, dato_reference follows the released code, and dato_gentle is meant for 20 to 30 steps.",
        ),
        io.Float.Input(
            "ratio", default=0.4, min=0.0, max=0.9, step=0.01, display_mode=io.NumberDisplay.slider,
            tooltip="Share of tokens left out of self-attention. The paper uses 0.4; 0 turns pruning off.",
        ),
        io.String.Input(
            "custom_depths", default="12, 1, 1, 0", optional=True,
            tooltip="Used when preset is custom: one number per step, scaled to your number of steps. 0 repeats the step "
            "before, 1 runs the outermost layers, 10 or more runs everything; leave it empty for no caching.",
        ),
        io.String.Input(
            "custom_ratios", default="", optional=True,
            tooltip="Used when preset is custom: pruning ratios over the run, such as 0.6, 0.4, 0.2. Leave it empty to "
            "use the slider.",
        ),
    ]  # fmt: skip


def _rare_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "recover_from", options=[AUTO, "base", "kept"], default=AUTO, optional=True,
            tooltip="Where a pruned token takes its output from: the base token of its cell, or the most similar token "
            "that was kept. auto follows the preset.",
        ),
        io.Float.Input(
            "gamma", default=1.0, min=-10.0, max=10.0, step=0.05, optional=True,
            tooltip="How strongly the tokens that change most are preferred as base tokens. The paper uses 1; 0 makes "
            "the choice random.",
        ),
        io.Float.Input(
            "alpha", default=0.1, min=0.0, max=10.0, step=0.05, optional=True,
            tooltip="How much randomness is mixed into that choice. It has its own seed and does not affect your noise "
            "seed.",
        ),
        matching_input("cannot be combined with recover_from kept"),
        max_downsample_input(),
        stride_input("pruned"),
        io.Int.Input(
            "draw", default=0, min=0, max=2**31, optional=True,
            tooltip="Seed of the random choice of base tokens. The same number repeats the same choice.",
        ),
        io.Boolean.Input(
            "forecast", default=False, optional=True,
            tooltip="Extrapolate cached values from the last two instead of repeating the last one. Needs twice the "
            "cache memory.",
        ),
        io.Boolean.Input(
            "last_full", default=False, optional=True,
            tooltip="Run the whole model at the last step, which removes residual noise.",
        ),
        *window_inputs("Pruning and skipping"),
    ]  # fmt: skip
