"""The node "DaTo": token pruning and cache depths in one patch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.presets_dato import DATO
from ..core.recipe import Recipe, preset
from ..core.recipe_prune import TokenPrune, parse_ratios
from ..core.recipe_skip import BlockSkip, parse_depths
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
            description="Faster sampling for SD1.x, SD2.x and SDXL: a published schedule says which steps run whole, which "
            "run the last layers, and which repeat; self-attention runs on the tokens that change.",
            inputs=[*_main_inputs(), *map(advanced, _rare_inputs())],
            outputs=[io.Model.Output(tooltip="The same model with both on it. The input stays as it was.")],
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
        io.Model.Input("model", tooltip="SD1.x, SD2.x or SDXL; the schedules were found on SD1.5 with 50 steps."),
        io.Combo.Input(
            "preset", options=[*DATO, CUSTOM], default="dato_coco",
            tooltip="The paper's schedules, for 50 PLMS steps and mapped to yours. dato_coco runs 5 of 51 calls whole and "
            "repeats 25, dato_b 5 and 24, dato_c 6 and 7, dato_d 8 and 1: more repeats are faster and further off. "
            "dato_gentle is for 20 to 30 steps: 9 of 20 whole, 10 forecast, 0 pruned.",
        ),
        io.Float.Input(
            "ratio", default=0.4, min=0.0, max=0.9, step=0.01, display_mode=io.NumberDisplay.slider,
            tooltip="Share of the tokens that self-attention leaves out. 0.4 is the paper's choice, 0 prunes nothing, "
            "0.75 is the most with cells of 2 x 2.",
        ),
        io.String.Input(
            "custom_depths", default="12, 1, 1, 0", optional=True,
            tooltip="Read only when preset is custom: 0 repeats the step before, 1 runs the outermost level, 10 and more "
            "run all. Stretched to your number of steps; empty is no caching.",
        ),
        io.String.Input(
            "custom_ratios", default="", optional=True,
            tooltip="Read only when preset is custom: ratios such as 0.6, 0.4, 0.2, stretched to your number of steps. "
            "Empty takes the slider's.",
        ),
    ]  # fmt: skip


def _rare_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "recover_from", options=[AUTO, "base", "kept"], default=AUTO, optional=True,
            tooltip="A pruned token takes the output of the 1 base token it was compared with, or of the kept token most "
            "like it. auto is the preset's.",
        ),
        io.Float.Input(
            "gamma", default=1.0, min=-10.0, max=10.0, step=0.05, optional=True,
            tooltip="How much the tokens that change most are preferred as base. 1 is the paper's choice, 0 leaves it to "
            "chance.",
        ),
        io.Float.Input(
            "alpha", default=0.1, min=0.0, max=10.0, step=0.05, optional=True,
            tooltip="How much chance has a say in that, 0.1 in the paper. The draw has its own seed; your noise stays the same.",
        ),
        matching_input("it does not go with kept"),
        max_downsample_input(),
        stride_input("75 % of the tokens can be pruned at 2, 89 % at 3, 94 % at 4"),
        io.Int.Input(
            "draw", default=0, min=0, max=2**31, optional=True,
            tooltip="Number of the draw behind alpha: the same number draws the same. 0 is as good as any.",
        ),
        io.Boolean.Input(
            "forecast", default=False, optional=True,
            tooltip="Continue what is kept in a straight line over its last 2 values instead of repeating the last. Doubles "
            "the memory.",
        ),
        io.Boolean.Input(
            "last_full", default=False, optional=True,
            tooltip="Run every block at the last 1 of the steps, which removes left-over noise.",
        ),
        *window_inputs("Prune and skip"),
    ]  # fmt: skip
