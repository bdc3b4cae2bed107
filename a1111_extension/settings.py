"""The panel's values: from the host's argument list to a recipe and back. Independent of any host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.errors import RecipeError, shown
from ..core.recipe.auto import LEVELS, Auto
from ..core.recipe.block_skip import BlockSkip, parse_depths
from ..core.recipe.presets import preset
from ..core.recipe.recipe import Method, Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune, parse_ratios
from ..core.recipe.validate import choice, number
from .table import (
    BOTH,
    CUSTOM,
    DATO_CHOICES,
    FIELDS,
    FIRST,
    HIRES,
    NO_PRESET,
    OF_ITS_OWN,
    OFF,
    OWN,
    TABLE,
    WHOLE,
    Entry,
    spaced,
)
from .values import typed

_DATO = ("dato", "ratio", "ratios", "dato_depths")
COUNTS = ("calls", "calls_every", "keys")
"""Fields of call skipping of which one chooses how many calls run. Without them, its speedup does."""
_CALLS = (*COUNTS, "calls_speedup", "calls_rule", "calls_profile")
_AUTO = ("speedup", "max_error")
SETTLED = ("threshold", "rule", "dato", *_AUTO, *_CALLS)
"""Fields that another choice may turn off (:meth:`PanelSettings.after`)."""
OF_PASSES = ("first_pass", "hires_pass", "hires_level", "hires_speedup")
"""Fields of the passes, whatever the methods."""
_OTHER = {FIRST: "hires_pass", HIRES: "first_pass"}
EXCLUSIVE = (*SETTLED, *_DATO[1:])
"""Fields of which one choice may exclude another."""


@dataclass(frozen=True)
class _Panel:
    """The values of the panel's fields, as the host passes them. The fields are those of :data:`TABLE`, in its order."""

    if TYPE_CHECKING:

        def __init__(self, *values: Any, **named: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def of_args(cls, args: Sequence[Any]) -> PanelSettings:
        """From the host's argument list, or from one mapping of field names to values in its first place.

        What is missing or None keeps its default, and the speedup that of the level; what is too much is dropped. Raises
        :class:`RecipeError` for a value of the wrong type and for a name that is no field.
        """
        by_name = args[0] if args and isinstance(args[0], Mapping) else dict(zip(FIELDS, args, strict=False))
        if unknown := [name for name in by_name if name not in FIELDS]:
            raise RecipeError(f"{shown(unknown[0])} is no argument of Skipstone: the user guide lists their names")
        chosen = {k: v for k, v in by_name.items() if v is not None and (k, v) != ("level", NO_PRESET)}
        given = {k: typed(k, v, FIELDS[k].default) for k, v in chosen.items()}
        return cls(**given | _of_level(given, "level") | _of_level(given, "hires_level") | _of_passes(given))

    @classmethod
    def of_recipe(cls, recipe: Recipe, **own: Any) -> PanelSettings:
        """The panel for this recipe: by its fields if they can express it, otherwise by its recipe box.

        Args:
            recipe: of both passes, unless `own` says otherwise.
            own: fields of no method, such as `hires_pass`.
        """
        panel = cls(**{**_fields_of(recipe), "enabled": True, **own})
        return panel if panel._expresses(recipe) else panel.but(recipe=recipe.to_json())

    def _expresses(self, recipe: Recipe) -> bool:
        try:
            return effects(self.of_args([vars(self)]).as_recipe()) == effects(recipe)
        except RecipeError:
            return False

    def recipe_of(self, hires: bool) -> Recipe:
        """The recipe of one pass, empty where it is off. Raises :class:`RecipeError` like :meth:`as_recipe`."""
        if not self.serves(hires):
            return Recipe()
        return self._hires() if hires and self.hires_pass == OF_ITS_OWN else self.as_recipe()

    def as_recipe(self) -> Recipe:
        """The recipe that is asked for. Raises :class:`RecipeError` in one line for values that cannot run."""
        for name in ("passes", "level", "first_pass", "hires_pass", "hires_level"):
            choice(name, getattr(self, name), FIELDS[name].choices)
        strength = FIELDS["hires_speedup"].field
        number("hires_speedup", self.hires_speedup, strength.low or 0.0, strength.high or 0.0, strength.remedy)
        if self.recipe.strip() and self.level == OWN:
            return Recipe.from_json(self.recipe)
        methods = self.methods()
        if len([m for m in methods if isinstance(m, (TokenMerge, TokenPrune)) and not m.neutral]) == 2:
            raise RecipeError(
                f"threshold={self.threshold:g} merges tokens that dato={self.dato!r} prunes: "
                "set Threshold to 1, or DaTo to off"
            )
        return Recipe.of(methods)

    def methods(self) -> list[Method]:
        """The recipe of the fields, whatever is in the recipe box. A preset is Auto alone. Otherwise merging is always in it,
        and neutral at a threshold of 1."""
        if self.level != OWN:
            return [self._method(Auto)]
        listed = {"checkpoints": self.custom} if self.checkpoints == CUSTOM else {}
        others = (self._method(cls) for cls in WHOLE)
        merge = self._method(TokenMerge, **listed)
        return [merge, *self._prune(), *self._skip(), *(m for m in others if not m.neutral)]

    def uses(self, entry: Entry) -> bool:
        """Is a field used, as the others are set? Some are for one block rule only, or for DaTo's own lists."""
        return entry.only is None or getattr(self, entry.only[0]) in entry.only[1]

    def _method(self, cls: type[Any], **particular: Any) -> Any:
        used = [entry for entry in TABLE if cls in entry.methods and self.uses(entry)]
        return cls(**{**{entry.setting: entry.read(getattr(self, entry.name)) for entry in used}, **particular})

    def _prune(self) -> list[Method]:
        choice("dato", self.dato, DATO_CHOICES)
        if self.dato == OFF:
            return []
        listed = {"ratio": parse_ratios(self.ratios)} if self.dato == CUSTOM and self.ratios.strip() else {}
        return [self._method(TokenPrune, **listed)]

    def _skip(self) -> list[Method]:
        depths = self._dato_depths()
        if depths and self.rule != OFF:
            raise RecipeError(
                f"rule={self.rule!r} and dato={self.dato!r} both decide which blocks run: set one of them to off"
            )
        if depths:
            return [self._method(BlockSkip, rule="depths", depths=depths)]
        return [] if self.rule == OFF else [self._method(BlockSkip)]

    def _dato_depths(self) -> tuple[int, ...]:
        """Those of the preset, or the user's list; empty for pruning alone."""
        if self.dato == CUSTOM:
            return parse_depths(self.dato_depths) if self.dato_depths.strip() else ()
        return () if self.dato == OFF else _preset_depths(self.dato)

    def but(self, **values: Any) -> PanelSettings:
        """These settings with other values."""
        return replace(self, **values)

    def after(self, chosen: str) -> PanelSettings:
        """These settings once the field `chosen` was set last: it counts, and what it excludes is turned off.

        DaTo prunes the tokens that a threshold below 1 merges, and its depths decide which blocks run, as a rule does. Auto
        and call skipping both choose the calls that run. A preset uses Auto alone, and excludes nothing.
        """
        if self.level != OWN:
            return self
        if chosen in (*_AUTO, *_CALLS):
            return self._after_calls(chosen)
        prunes = self.ratio > 0 or bool(self.dato == CUSTOM and self.ratios.strip())
        depths = self.dato != OFF and (self.dato != CUSTOM or bool(self.dato_depths.strip()))
        if chosen in _DATO and self.dato != OFF:
            return self.but(threshold=1.0 if prunes else self.threshold, rule=OFF if depths else self.rule)
        merges = chosen == "threshold" and self.threshold < 1
        if (merges and prunes) or (chosen == "rule" and self.rule != OFF and depths):
            return self.but(dato=OFF)
        return self

    def _after_calls(self, chosen: str) -> PanelSettings:
        if getattr(self, chosen) == FIELDS[chosen].default:
            return self
        others = _CALLS if chosen in _AUTO else (*_AUTO, *(COUNTS if chosen in COUNTS else ()))
        return self.but(**{name: FIELDS[name].default for name in others if name != chosen})

    def serves(self, hires: bool) -> bool:
        """Is this pass on?"""
        return (self.hires_pass if hires else self.first_pass) != OFF

    def _hires(self) -> Recipe:
        """The hires pass's own recipe: Auto with a speedup of its own."""
        return Recipe.of([replace(self._method(Auto), speedup=self.hires_speedup, max_error=0.0)])


if TYPE_CHECKING:
    PanelSettings = _Panel
else:
    PanelSettings = make_dataclass(
        "PanelSettings",
        [(entry.name, type(entry.default), field(default=entry.default)) for entry in TABLE],
        bases=(_Panel,),
        frozen=True,
    )


def _of_level(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A level, whatever its case, with its speedup where none is given.

    Args:
        given: the fields.
        name: of the level's field.
    """
    level, speedup = str(given.get(name, FIELDS[name].default)).lower(), name.replace("level", "speedup")
    implied = {speedup: LEVELS[level]} if level in LEVELS and speedup not in given else {}
    return {name: level.capitalize(), **implied}


def _of_passes(given: Mapping[str, Any]) -> dict[str, Any]:
    """`passes` in the fields that replaced it. It switches a pass off, and on none that is off."""
    passes = given.get("passes", BOTH)
    return {"passes": BOTH, _OTHER[passes]: OFF} if passes in _OTHER else {}


def level_of(speedup: float) -> str:
    """The preset whose speedup is nearest."""
    return min(LEVELS, key=lambda name: abs(LEVELS[name] - speedup)).capitalize()


def effects(recipe: Recipe) -> tuple[Any, ...]:
    """What distinguishes two recipes: a method that changes nothing counts as none, unless it has an "off" of its own."""
    return tuple(m for m in recipe.methods if not m.neutral or isinstance(m, (TokenPrune, BlockSkip)))


def edited(recipe: Recipe, panel: PanelSettings) -> Recipe:
    """The recipe with what changed on the controls.

    Args:
        recipe: before.
        panel: settings that the controls show.
    """
    kept = {type(m): m for m in recipe.methods}
    before = {type(m): m for m in PanelSettings.of_recipe(recipe).methods()}
    methods = [_changed(kept.get(type(m)), before.get(type(m)), m) for m in panel.methods()]
    unused = TokenPrune in map(type, methods) or TokenMerge not in kept
    return Recipe.of(m for m in methods if not (unused and isinstance(m, TokenMerge) and m.neutral))


def _changed(kept: Method | None, before: Method | None, asked: Method) -> Method:
    if kept is None:
        return asked
    names = [f.name for f in fields(asked)]
    return replace(kept, **{n: getattr(asked, n) for n in names if getattr(asked, n) != getattr(before, n, None)})


def _fields_of(recipe: Recipe) -> dict[str, Any]:
    """What the fields show of a recipe. A field that several methods share shows the first method that is in use."""
    sources = [*sorted(recipe.methods, key=lambda m: m.neutral), TokenMerge(threshold=1.0)]
    found: dict[str, Any] = {}
    for entry in TABLE:
        source = next((m for m in sources if type(m) in entry.methods), None)
        if source is not None and (not entry.field.rules or getattr(source, "rule", None) in entry.field.rules):
            found[entry.name] = entry.shown(getattr(source, entry.setting))
    return found | _lists(recipe)


def _lists(recipe: Recipe) -> dict[str, Any]:
    """The fields for the user's lists, and DaTo's: depths beside pruning belong to it, depths alone are a block rule."""
    methods = {type(m): m for m in recipe.methods}
    checkpoints = getattr(methods.get(TokenMerge), "checkpoints", "")
    found: dict[str, Any] = {"custom": spaced(checkpoints)} if isinstance(checkpoints, tuple) else {}
    prune, skip = methods.get(TokenPrune), methods.get(BlockSkip)
    if not isinstance(prune, TokenPrune):
        return found
    depths = skip.depths if isinstance(skip, BlockSkip) and skip.rule == "depths" else ()
    listed = isinstance(prune.ratio, tuple)
    named = [] if listed or not depths else [n for n in DATO_CHOICES[1:-1] if _preset_depths(n) == depths]
    found |= {"dato": named[0]} if named else {"dato": CUSTOM, "dato_depths": spaced(depths)}
    found |= {"ratios": spaced(prune.ratios)} if listed else {}
    return found | ({"rule": OFF, "depths": ""} if depths else {})


def _preset_depths(name: str) -> tuple[int, ...]:
    return next((m.depths for m in preset(name).methods if isinstance(m, BlockSkip)), ())
