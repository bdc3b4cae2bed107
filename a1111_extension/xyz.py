"""Axes for the host's X/Y/Z plot. A value is set on the job, never in the host's options; it switches Skipstone on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..core.checks import number
from ..core.recipe import Recipe, TokenMerge
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
    cell = {name: getattr(p, f"skipstone_{name}", None) for name in ("threshold", "checkpoints")}
    values = {name: value for name, value in cell.items() if value is not None}
    if not values:
        return settings
    merge = replace(settings.as_recipe().merge or TokenMerge(), **values)
    return PanelSettings.of_recipe(Recipe(merge=merge), settings.passes)


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
    ]


def _apply(name: str) -> Callable[[Any, Any, Sequence[Any]], None]:
    return lambda p, value, values: setattr(p, name, value)


def _confirm_thresholds(p: Any, values: Sequence[float]) -> None:
    for value in values:
        number("threshold", value, -1.0, 1.0, "1 switches merging off")


def _confirm_checkpoints(p: Any, values: Sequence[str]) -> None:
    for value in values:
        parse_checkpoints(value)
