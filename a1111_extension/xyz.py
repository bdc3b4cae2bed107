"""Axes for the host's X/Y/Z plot. A value is set on the job, never in the host's options; it switches Skipstone on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from ..core.checks import integer, number
from ..core.recipe import BlockSkip, Recipe, TokenMerge
from ..core.schedule import CHECKPOINT_PRESETS, parse_checkpoints
from .settings import PanelSettings

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
    merging, skipping = _cell(p, "threshold", "checkpoints"), _cell(p, "every")
    if not merging and not skipping:
        return settings
    recipe = settings.as_recipe()
    merge = recipe.merge if settings.enabled else None
    skip = recipe.skip if settings.enabled else None
    if merging:
        merge = replace(recipe.merge or TokenMerge(), **merging)
    if skipping:
        skip = replace(recipe.skip if _has_interval(recipe.skip) else BlockSkip(), **skipping)
    return PanelSettings.of_recipe(Recipe(merge=merge, skip=skip), settings.passes)


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
