"""Axes for the host's X/Y/Z plot. A value is set on the job, never in the host's options; it switches Skipstone on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.checkpoint_lists import CHECKPOINT_PRESETS, parse_checkpoints
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from ..core.recipe.validate import choice, integer, number
from .settings import OFF, PanelSettings

_PREFIX = "[Skipstone] "
_MODULES = ("xyz_grid.py", "scripts.xyz_grid")


def add_axes() -> None:
    """`on_before_ui`: add the axes, once."""
    from modules import scripts

    for module in [data.module for data in scripts.scripts_data if data.script_class.__module__ in _MODULES]:
        if not any(option.label.startswith(_PREFIX) for option in module.axis_options):
            module.axis_options += _axes(module.AxisOption)


def with_axes(settings: PanelSettings, p: Any) -> PanelSettings:
    """The panel's settings with this grid cell's values. Raises :class:`RecipeError` for a broken recipe box."""
    merging, skipping, pruning = _cell(p, "threshold", "checkpoints"), _cell(p, "every"), _cell(p, "dato", "ratio")
    if not merging and not skipping and not pruning:
        return settings
    asked = settings.as_recipe()
    recipe = asked if settings.enabled else Recipe()
    merge, skip = recipe.merge, recipe.skip
    if merging:
        merge = replace(asked.merge or TokenMerge(), **merging)
    if skipping:
        skip = replace(asked.skip if _has_interval(asked.skip) else BlockSkip(), **skipping)
    if pruning and not merging and pruning.get("dato") != OFF:
        merge = None
    recipe = _with_dato(replace(recipe, merge=None, skip=skip), **pruning)
    return PanelSettings.of_recipe(replace(recipe, merge=merge), settings.passes)


def _with_dato(recipe: Recipe, dato: str | None = None, ratio: float | None = None) -> Recipe:
    """The recipe with a preset in it, or none, and another ratio of pruning."""
    prune, skip = recipe.prune, recipe.skip
    if dato == OFF:
        prune, skip = None, None if prune and skip and skip.rule == "depths" else skip
    elif dato is not None:
        prune, skip = preset(dato).prune, preset(dato).skip
    if ratio is not None and dato != OFF:
        prune = replace(prune or TokenPrune(), ratio=ratio)
    return replace(recipe, prune=prune, skip=skip)


def _has_interval(skip: BlockSkip | None) -> TypeGuard[BlockSkip]:
    return skip is not None and skip.rule not in ("depths", "mask")


def _cell(p: Any, *names: str) -> dict[str, Any]:
    values = {name: getattr(p, f"skipstone_{name}", None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _axes(option: Callable[..., Any]) -> list[Any]:
    return [
        option(f"{_PREFIX}Threshold", float, _apply("skipstone_threshold"), confirm=_confirm_thresholds),
        option(
            f"{_PREFIX}Checkpoints",
            str,
            _apply("skipstone_checkpoints"),
            confirm=_confirm_checkpoints,
            choices=lambda: list(CHECKPOINT_PRESETS),
        ),
        option(f"{_PREFIX}Block rule every", int, _apply("skipstone_every"), confirm=_confirm_every),
        option(f"{_PREFIX}DaTo", str, _apply("skipstone_dato"), confirm=_confirm_dato, choices=lambda: [OFF, *DATO]),
        option(f"{_PREFIX}DaTo ratio", float, _apply("skipstone_ratio"), confirm=_confirm_ratios),
    ]


def _apply(name: str) -> Callable[[Any, Any, Sequence[Any]], None]:
    return lambda p, value, values: setattr(p, name, value)


def _confirm_thresholds(p: Any, values: Sequence[float]) -> None:
    for value in values:
        number("threshold", value, -1.0, 1.0, "1 switches merging off")


def _confirm_checkpoints(p: Any, values: Sequence[str]) -> None:
    for value in values:
        parse_checkpoints(value)


def _confirm_every(p: Any, values: Sequence[int]) -> None:
    for value in values:
        integer("every", value, 1, "1 runs every call in full")


def _confirm_dato(p: Any, values: Sequence[str]) -> None:
    for value in values:
        choice("dato", value, (OFF, *DATO))


def _confirm_ratios(p: Any, values: Sequence[float]) -> None:
    for value in values:
        TokenPrune(ratio=value)
