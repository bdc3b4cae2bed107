"""The panel's fields, in one table. Panel, tab, infotext, X/Y/Z plot and API are made from it.

Most entries come from the settings' own descriptions (`core/recipe/fields.py`): each setting that is shown has an entry.
Methods with a setting of the same name share one. The rest, written here, are the panel's own fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..core.recipe.auto import LEVELS, Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.fields import Field, default_of, field_of, fields_of, label_of
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import METHODS as NAMED
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from ..core.recipe.validate import choice

METHODS = tuple(NAMED.values())
SHARING = (TokenMerge, TokenPrune, BlockSkip)
"""Methods whose settings of one name have one control. The others, which act on whole calls, have controls of their own."""
WHOLE = (Auto, CallSkip, *(cls for cls in METHODS if cls not in (*SHARING, Auto, CallSkip)))
"""The others. Where two have a setting of one name, an earlier one's keeps it, and a later one's gets its method's name."""

WINDOW = ("start", "end")
"""Settings of which all methods share one control."""

BOTH, FIRST, HIRES = "both passes", "first pass only", "hires pass only"
PASSES = (BOTH, FIRST, HIRES)
"""What `passes` took before each pass had a field."""
OFF, CUSTOM = "off", "custom"
AS_PRESET, OF_ITS_OWN = "as preset", "own"
FIRST_PASS, HIRES_PASS = (OFF, AS_PRESET), (OFF, AS_PRESET, OF_ITS_OWN)
OWN = "Custom"
NO_PRESET = ""
"""The preset of a panel on which none was chosen yet: the single settings count. The host reads infotext in the type of a
component's first value, so that it cannot be None."""
PRESETS = tuple(name.capitalize() for name in LEVELS)
LEVEL_CHOICES = (*PRESETS, OWN)
"""Auto's speed-ups by name, and the single settings."""
MERGE_IN = {
    "self-attention": ("attn1",),
    "self- and cross-attention": ("attn1", "attn2"),
    "self-attention and feed-forward": ("attn1", "ff"),
    "self-attention, cross-attention and feed-forward": ("attn1", "attn2", "ff"),
}
DATO_CHOICES = (OFF, *(name for name in DATO if TokenPrune() in preset(name).methods), CUSTOM)
"""DaTo's presets that differ in their depths alone; the panel's other fields say the rest. Others are recipes."""

FOLDERS = {"mask": "skipstone_masks", "profile": "skipstone_profiles"}
"""Setting that names a file -> its folder in the web UI's models folder."""

VIDEO = ("frames",)
"""Settings that change videos alone, which web UIs do not draw."""

_TITLES = {BlockSkip: "Block masks", TokenPrune: "DaTo", Auto: "Auto"}

ALWAYS, CHANGED, NEVER = "always", "changed", "never"
"""When a field is written to the infotext: whenever it is used, if it is not the default as well, or never."""

ORDER = (
    "enabled", "threshold", "checkpoints", "custom", "passes", "matching", "proportional", "destination", "batch",
    "max_downsample", "merge_in", "start", "end", "recipe", "rule", "every", "branch", "depths", "mask", "last_full",
    "memory_budget", "offload", "forecast", "dato", "ratio", "ratios", "dato_depths", "recover_from", "stride", "gamma",
    "alpha", "seed", "mode", "caching", "split", "speedup", "max_error", "profile", "guard",
    "calls_speedup", "calls", "calls_every", "keys", "calls_rule", "space", "predictor", "warmup", "tail", "max_gap",
    "calls_threshold", "calls_profile", "record", "level", "first_pass", "hires_pass", "hires_level", "hires_speedup",
)  # fmt: skip
"""Public: the order of the API's arguments. A field that is not listed comes last; append it here before the next release."""


@dataclass(frozen=True)
class Entry:
    """One field of the panel.

    Args:
        name: in the API, in element ids, and in the infotext.
        field: its description.
        default: its value in a new panel, which also gives its type.
        methods: the settings classes that it sets; none for a field of the panel's own.
        setting: its name there.
        group: the method whose controls it stands among; None for those of the whole panel.
        choices: the values of its list, as text; empty for other controls.
        only: another field, and the values of that one with which this one is used; None where it always is.
        infotext: when it is written.
        axis: its name in the X/Y/Z plot; its label where it is empty.
        note: what is particular to this host, shown before the help.
        title: replaces its label. The host keeps the user's own defaults by label, so that no two may be equal.
        hidden: no control is shown, because it does nothing in this host or another one replaces it. Its place stays.
    """

    name: str
    field: Field
    default: Any
    methods: tuple[type[Any], ...] = ()
    setting: str = ""
    group: type[Any] | None = None
    choices: tuple[str, ...] = ()
    only: tuple[str, tuple[str, ...]] | None = None
    infotext: str = CHANGED
    axis: str = ""
    note: str = ""
    title: str = ""
    hidden: bool = False

    @property
    def label(self) -> str:
        """Shown above its control."""
        return self.title or label_of(self.setting or self.name, self.field)

    @property
    def expert(self) -> bool:
        """Is it for experts? Numbers and texts of one block rule are not: they are what that rule is set by."""
        return self.field.advanced and (self.only is None or bool(self.choices))

    @property
    def info(self) -> str:
        """Shown beside its control."""
        return " ".join(filter(None, (self.note, self.field.help)))

    def shown(self, value: Any) -> Any:
        """A setting's value as the panel shows it: lists as text, a choice by its name."""
        if self.name == "merge_in":
            return next((name for name, targets in MERGE_IN.items() if set(targets) == set(value)), self.default)
        if self.field.custom and isinstance(value, tuple):
            return CUSTOM if self.choices else self.default
        if isinstance(value, tuple):
            value = value[0] if isinstance(self.default, int) else spaced(value)
        return type(self.default)(value)

    def read(self, value: Any) -> Any:
        """The setting's value behind what the panel shows. Raises :class:`RecipeError` for a choice or list that is none."""
        if self.name == "merge_in":
            return MERGE_IN[self._chosen(value, MERGE_IN)]
        if self.choices and not self.field.custom:
            named = {name: name for name in self.choices} | {str(c): c for c in self.field.choices}
            return named[self._chosen(value, self.choices)]
        if self.field.parse and not self.field.custom:
            return self.field.parse(value)
        original = default_of(self.methods[0], self.setting)
        return (value,) * len(original) if isinstance(original, tuple) else value

    def _chosen(self, value: Any, choices: Iterable[str]) -> str:
        choice(self.name, str(value), choices)
        return str(value)


def spaced(values: str | tuple[float, ...]) -> str:
    """A list as one types it: "0 8 11"; a preset's name as it is."""
    return values if isinstance(values, str) else " ".join(f"{value:g}" for value in values)


_OWN = (
    Entry("enabled", Field("", label="Skipstone"), False, infotext=NEVER),
    Entry(
        "level",
        Field("Gentle stays closest to the unaccelerated picture, Fast is the quickest. Custom has the single methods.",
              label="Preset"),
        OWN, choices=LEVEL_CHOICES,
    ),
    Entry("passes", Field("", label="Hires fix"), BOTH, choices=PASSES, infotext=NEVER, hidden=True),
    Entry(
        "first_pass", Field("off makes the first pass unaccelerated.", label="First pass"), AS_PRESET, choices=FIRST_PASS,
    ),
    Entry(
        "hires_pass",
        Field("as preset: as the first pass is set above. own: a preset and strength of its own.", label="Hires pass"),
        AS_PRESET, choices=HIRES_PASS,
    ),
    Entry(
        "hires_level", Field("", label="Hires preset"), "Balanced", choices=PRESETS,
        only=("hires_pass", (OF_ITS_OWN,)), infotext=ALWAYS,
    ),
    Entry(
        "hires_speedup", field_of(Auto, "speedup"), LEVELS["balanced"],
        only=("hires_pass", (OF_ITS_OWN,)), infotext=ALWAYS, title="Hires strength",
    ),
    Entry("recipe", Field("Replaces all other settings of the methods.", label="Recipe (JSON)"), ""),
    Entry(
        "dato",
        Field("Published schedules for 51 calls, scaled to your steps: dato_coco and dato_b have 5 full calls, dato_c 6, "
              "dato_d 8. custom takes your own lists.", label="Schedule"),
        OFF, group=TokenPrune, choices=DATO_CHOICES, axis="DaTo",
    ),
    Entry(
        "dato_depths",
        Field("Used when Schedule is custom: depths as for block masks, such as 12 1 1 0. Leave it empty to prune only.",
              label="DaTo depths"),
        "", group=TokenPrune, only=("dato", (CUSTOM,)),
    ),
)  # fmt: skip


def _list_of(name: str, methods: type[Any], setting: str, only: str, infotext: str) -> Entry:
    """The text box for the user's list beside a setting."""
    field = field_of(methods, setting)
    label = f"Custom {label_of(setting, field).lower()}"
    return Entry(name, Field(field.custom, label), "", group=methods, only=(only, (CUSTOM,)), infotext=infotext)


_LISTS = (
    _list_of("custom", TokenMerge, "checkpoints", "checkpoints", NEVER),
    _list_of("ratios", TokenPrune, "ratio", "dato", CHANGED),
)

_PARTICULAR: dict[str, dict[str, Any]] = {
    "threshold": {"infotext": ALWAYS},
    "checkpoints": {
        "title": "Search at", "axis": "Checkpoints", "infotext": ALWAYS,
        "choices": (*field_of(TokenMerge, "checkpoints").choices, CUSTOM),
    },
    "targets": {"name": "merge_in", "choices": tuple(MERGE_IN), "default": next(iter(MERGE_IN))},
    "proportional": {"hidden": True},  # the web UI's attention takes no key bias
    "rule": {
        "choices": (OFF, *field_of(BlockSkip, "rule").choices), "default": OFF,
        "note": "off runs all blocks. mask runs the blocks that a mask file lists.",
    },
    "every": {"title": "Full call every", "infotext": ALWAYS, "axis": "Block rule every"},
    "mode": {"note": "quad needs a sampler with one call per step, such as Euler or DDIM."},
    "mask": {"note": f"A file in models/{FOLDERS['mask']}."},
    **{name: {"note": f"A file in models/{FOLDERS['profile']}."} for name in ("profile", "calls_profile")},
    "branch": {"title": "Layers kept", "axis": "Branch"},
    "speedup": {"title": "Strength", "axis": "Speedup", "default": 1.0},
    "calls_speedup": {"default": 1.0},
    "ratio": {"infotext": ALWAYS, "axis": "DaTo ratio"},
}  # fmt: skip
"""Settings whose entry differs from the plain one, and how."""


def table(methods: Iterable[type[Any]]) -> tuple[Entry, ...]:
    """The entries of a panel for these methods, in the order of its arguments."""
    place = {name: at for at, name in enumerate(ORDER)}
    return tuple(sorted([*_OWN, *_LISTS, *_settings(tuple(methods))], key=lambda e: place.get(e.name, len(place))))


def _settings(methods: tuple[type[Any], ...]) -> Iterator[Entry]:
    """One entry for each setting that is shown; the methods of :data:`SHARING` have one for each name, and all have one for
    each of :data:`WINDOW`."""
    for name in WINDOW:
        if windowed := tuple(cls for cls in methods if name in fields_of(cls)):
            yield _setting(name, name, windowed)
    taken: set[str] = set()
    groups = [tuple(cls for cls in methods if cls in SHARING), *((cls,) for cls in WHOLE if cls in methods)]
    for group in groups:
        shown = {
            cls: [name for name, one in fields_of(cls).items() if one.shown and name not in (*VIDEO, *WINDOW)]
            for cls in group
        }
        names = dict.fromkeys(name for found in shown.values() for name in found)
        for name in names:
            own = f"{_slot(group[0])}_{name}" if name in taken else name
            yield _setting(own, name, tuple(cls for cls in group if name in shown[cls]))
        taken |= set(names)


def _slot(cls: type[Any]) -> str:
    """A method's name in a recipe."""
    return next((slot for slot, named in NAMED.items() if named is cls), cls.__name__.lower())


def title_of(cls: type[Any]) -> str:
    """The heading over a method's controls: by default, how its docstring begins."""
    return _TITLES.get(cls) or (cls.__doc__ or cls.__name__).strip().split(":")[0]


def _setting(own: str, name: str, methods: tuple[type[Any], ...]) -> Entry:
    """own: name of the entry. name: of the setting."""
    field, default = field_of(methods[0], name), default_of(methods[0], name)
    plain = {
        "name": own,
        "default": _shown_default(field, default),
        "choices": () if isinstance(default, bool) else tuple(str(c) for c in field.choices if c not in field.unlisted),
        "group": methods[0] if len(methods) == 1 and (methods[0] is not TokenMerge or not field.advanced) else None,
        "only": ("rule", field.rules) if field.rules else None,
        "title": "" if own == name else f"{title_of(methods[0])} {name}".replace("_", " "),
    }
    return Entry(field=field, methods=methods, setting=name, **{**plain, **_PARTICULAR.get(own, {})})


def _shown_default(field: Field, default: Any) -> Any:
    if field.choices:
        return str(default)
    if isinstance(default, tuple):
        return default[0] if default else ""
    return default


TABLE = table(METHODS)
FIELDS = {entry.name: entry for entry in TABLE}
