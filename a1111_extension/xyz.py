"""Axes for the host's X/Y/Z plot: one for each number, choice, switch and file of the panel.

A value is set on the job, never in the host's options. It switches Skipstone on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..core.recipe.auto import LEVELS, Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.fields import default_of
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import Method, Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from ..core.recipe.validate import choice
from .model_files import names
from .settings import COUNTS, OF_PASSES, PanelSettings
from .table import CUSTOM, FIELDS, FOLDERS, METHODS, OF_ITS_OWN, OFF, OWN, TABLE, Entry
from .values import typed

_PREFIX = "[Skipstone] "
_MODULES = ("xyz_grid.py", "scripts.xyz_grid")

_FIRST = ("threshold", "checkpoints", "every", "dato", "ratio")
_PLAIN = [
    e.name
    for e in TABLE
    if e.name != "enabled" and (e.choices or e.setting in FOLDERS or not isinstance(e.default, str))
]
AXES = tuple(FIELDS[name] for name in dict.fromkeys((*_FIRST, *_PLAIN)))
"""The fields that have an axis, in the order of the plot's list."""

Values = dict[str, Any]


def add_axes() -> None:
    """Add the axes, once; for `on_before_ui`."""
    from modules import scripts

    for module in [data.module for data in scripts.scripts_data if data.script_class.__module__ in _MODULES]:
        if not any(option.label.startswith(_PREFIX) for option in module.axis_options):
            module.axis_options += [_axis(module.AxisOption, entry) for entry in AXES]


def _axis(option: Callable[..., Any], entry: Entry) -> Any:
    listed = bool(entry.setting in FOLDERS or _choices(entry))
    more = {"choices": lambda: list(_choices(entry))} if listed else {}
    kind = str if listed else type(entry.default)
    apply, confirm = partial(_apply, entry), partial(_confirm, entry)
    return option(f"{_PREFIX}{entry.axis or entry.label}", kind, apply, confirm=confirm, **more)


def _choices(entry: Entry) -> tuple[str, ...]:
    """Every preset of DaTo is a choice of its axis, and every file of a folder; the user's lists are not."""
    if entry.setting in FOLDERS:
        return tuple(names(entry.setting))
    if entry.name == "dato":
        return (OFF, *DATO)
    if isinstance(entry.default, bool):
        return ("False", "True")
    return tuple(name for name in entry.choices if name != CUSTOM)


def _apply(entry: Entry, p: Any, value: Any, values: Sequence[Any]) -> None:
    setattr(p, f"skipstone_{entry.name}", value)


def _confirm(entry: Entry, p: Any, values: Iterable[Any]) -> None:
    """Refuse values that cannot run before the plot begins. Raises :class:`RecipeError`."""
    for value in values:
        if (_choices(entry) and (not entry.methods or entry.name == "rule")) or entry.setting in FOLDERS:
            choice(entry.name, value, _choices(entry))
        if entry.name in OF_PASSES:
            PanelSettings.of_args([{entry.name: value}]).as_recipe()
        for cls in entry.methods if entry.name != "rule" else ():
            cls(**{entry.setting: _read(entry, value)})


def _read(entry: Entry, value: Any) -> Any:
    return entry.read(typed(entry.name, value, entry.default))


def with_axes(settings: PanelSettings, p: Any) -> PanelSettings:
    """The panel's settings with this plot cell's values.

    A value of one method alone switches that method on. With the panel off, nothing else of the panel is used.

    Args:
        settings: of the panel.
        p: the processing object, on which the plot sets its values.

    Raises :class:`RecipeError` for values that cannot run.
    """
    found = {entry.name: getattr(p, f"skipstone_{entry.name}", None) for entry in AXES}
    cell = {name: value for name, value in found.items() if value is not None}
    if level := cell.pop("level", ""):
        speedup = settings.speedup if settings.level == OWN else 1.0
        settings = settings.but(enabled=True, level=level, speedup=LEVELS.get(level.lower(), speedup))
    if passes := {name: cell.pop(name) for name in ("passes", *OF_PASSES) if name in cell}:
        settings = _with_passes(settings, passes)
    if not cell:
        return settings
    if "rule" in cell:
        settings = settings.but(rule=cell["rule"]).after("rule")
    return PanelSettings.of_recipe(_with_cell(settings, cell), **{name: getattr(settings, name) for name in OF_PASSES})


def _with_passes(settings: PanelSettings, passes: Values) -> PanelSettings:
    """The settings with a cell's values for the passes. A level or strength of the hires pass is its own."""
    own = {"hires_pass": OF_ITS_OWN} if passes.keys() & {"hires_level", "hires_speedup"} else {}
    kept = [name for name in OF_PASSES if name != "hires_speedup" or "hires_level" not in passes]
    found = PanelSettings.of_args([{**{name: getattr(settings, name) for name in kept}, **own, **passes}])
    return settings.but(enabled=True, **{name: getattr(found, name) for name in OF_PASSES})


def _with_cell(settings: PanelSettings, cell: Values) -> Recipe:
    asked = {type(method): method for method in settings.as_recipe().methods}
    dato, own = cell.pop("dato", None), _switched_on(cell)
    found = dict(asked) if settings.enabled or not (own or dato) else {}
    if dato == OFF:
        found, own = _without_dato(found), own - {TokenPrune}
    elif dato is not None:
        found |= {type(method): method for method in preset(dato).methods}
    if cell.get("rule") == OFF:
        found.pop(BlockSkip, None)
    for cls, other in ((Auto, CallSkip), (CallSkip, Auto)):
        if cls in own:
            found.pop(other, None)
    if TokenMerge not in own and (TokenPrune in own or dato not in (None, OFF)):
        found.pop(TokenMerge, None)
    return Recipe.of(
        _changed(found.get(cls) or asked.get(cls) or cls(), cell, fixed=dato is not None or "rule" in cell)
        for cls in METHODS
        if cls in own or cls in found
    )


def _switched_on(cell: Values) -> set[type[Any]]:
    """The methods that alone have one of these values."""
    entries = [FIELDS[name] for name, value in cell.items() if (name, value) != ("rule", OFF)]
    return {entry.methods[0] for entry in entries if len(entry.methods) == 1}


def _without_dato(found: dict[type[Any], Method]) -> dict[type[Any], Method]:
    """Less pruning, and the depths beside it."""
    depths = TokenPrune in found and getattr(found.get(BlockSkip), "rule", "") == "depths"
    return {cls: method for cls, method in found.items() if cls is not TokenPrune and not (depths and cls is BlockSkip)}


def _changed(method: Method, cell: Values, fixed: bool) -> Method:
    """The method with the values of its own. A value that its block rule does not use chooses another rule, or is left out
    where the rule is fixed; of the ways to choose how many calls run, the cell's replaces the panel's."""
    entries = [FIELDS[name] for name in cell if type(method) in FIELDS[name].methods]
    if isinstance(method, CallSkip) and cell.keys() & {"calls_speedup", *COUNTS}:
        method = replace(method, **{FIELDS[n].setting: default_of(CallSkip, FIELDS[n].setting) for n in COUNTS})
    if isinstance(method, BlockSkip):
        rule = cell.get("rule", method.rule)
        method = replace(method, rule=rule, mask=method.mask if rule == "mask" else "")
        used = [entry for entry in entries if not entry.field.rules or rule in entry.field.rules]
        method, entries = (method, used) if fixed or used == entries else (BlockSkip(), entries)
    return replace(method, **{entry.setting: _read(entry, cell[entry.name]) for entry in entries})
