"""The panel's values: from the host's argument list to a recipe, to infotext and back. Knows no host.

The order of :class:`PanelSettings`' fields is the order of the API's `args` list, a public interface: append only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..core.checks import choice
from ..core.recipe import MAX_DOWNSAMPLES, BlockSkip, Recipe, TokenMerge
from ..core.recipe_skip import parse_depths
from ..core.schedule import CHECKPOINT_PRESETS

BOTH, FIRST, HIRES = "both passes", "first pass only", "hires pass only"
PASSES = (BOTH, FIRST, HIRES)
CUSTOM = "custom"
CHECKPOINTS = (*CHECKPOINT_PRESETS, CUSTOM)
MERGE_IN = {
    "self-attention": ("attn1",),
    "self- and cross-attention": ("attn1", "attn2"),
    "self-attention and feed-forward": ("attn1", "ff"),
    "self-attention, cross-attention and feed-forward": ("attn1", "attn2", "ff"),
}
LEVELS = ("auto", *map(str, MAX_DOWNSAMPLES))
OFF = "off"
RULES: dict[str, tuple[str, ...]] = {
    OFF: (),
    "deepcache": ("every", "branch", "last_full"),
    "interval": ("every", "last_full"),
    "depths": ("depths", "last_full"),
    "mask": ("mask", "last_full"),
}
"""Block rules, and the fields that each reads."""

SKIP_FIELDS = ("rule", "every", "branch", "depths", "mask", "last_full")

INFOTEXT = "Skipstone "
"""All infotext keys begin so. The rest of a key is the field's name, with blanks for underscores."""

MERGED, BLOCKS_RUN = INFOTEXT + "merged", INFOTEXT + "blocks run"
"""Infotext keys of the results; they are told, not pasted back."""


@dataclass(frozen=True)
class PanelSettings:
    """The values of the panel's components, as the host passes them."""

    enabled: bool = False
    threshold: float = 0.7
    checkpoints: str = "config_3"
    custom: str = ""
    passes: str = BOTH
    matching: str = "dense"
    proportional: bool = False
    destination: str = "top_left"
    batch: str = "per_sample"
    max_downsample: str = "auto"
    merge_in: str = "self-attention"
    start: float = 0.0
    end: float = 1.0
    recipe: str = ""
    rule: str = OFF
    every: int = BlockSkip.every
    branch: int = BlockSkip.branch
    depths: str = ""
    mask: str = ""
    last_full: bool = False

    @classmethod
    def of_args(cls, args: Sequence[Any]) -> PanelSettings:
        """From the host's argument list; what is missing or None keeps its default, what is too much is dropped."""
        given = zip((f.name for f in fields(cls)), args, strict=False)
        return cls(**{name: value for name, value in given if value is not None})

    @classmethod
    def of_recipe(cls, recipe: Recipe, passes: str = BOTH) -> PanelSettings:
        """The panel that asks for this recipe: by its fields where they can say it, else by its recipe box."""
        merge = recipe.merge or TokenMerge(threshold=1.0)
        listed = isinstance(merge.checkpoints, str)
        names = [name for name, targets in MERGE_IN.items() if set(targets) == set(merge.targets)]
        panel = cls(
            enabled=True,
            threshold=float(merge.threshold),
            checkpoints=str(merge.checkpoints) if listed else CUSTOM,
            custom="" if listed else _spaced(merge.checkpoints),
            passes=passes,
            matching=merge.matching,
            proportional=merge.proportional,
            destination=merge.destination,
            batch=merge.batch,
            max_downsample=str(merge.max_downsample),
            merge_in=names[0] if names else cls.merge_in,
            start=float(merge.start),
            end=float(merge.end),
            **_fields_of(recipe.skip),
        )
        said = panel.as_recipe()
        return panel if (said.merge, said.skip) == (merge, recipe.skip) else replace(panel, recipe=recipe.to_json())

    def as_recipe(self) -> Recipe:
        """The recipe that is asked for. Raises :class:`RecipeError` in one line for values that make no sense."""
        choice("passes", self.passes, PASSES)
        if str(self.recipe).strip():
            return Recipe.from_json(str(self.recipe))
        choice("merge in", self.merge_in, tuple(MERGE_IN))
        choice("coarsest level", str(self.max_downsample), LEVELS)
        level = str(self.max_downsample)
        merge = TokenMerge(
            threshold=self.threshold,
            checkpoints=self.custom if self.checkpoints == CUSTOM else self.checkpoints,
            matching=self.matching,  # type: ignore[arg-type]
            proportional=self.proportional,
            destination=self.destination,  # type: ignore[arg-type]
            batch=self.batch,  # type: ignore[arg-type]
            max_downsample=int(level) if level.isdigit() else "auto",
            targets=MERGE_IN[self.merge_in],  # type: ignore[arg-type]
            start=self.start,
            end=self.end,
        )
        return Recipe(merge=merge, skip=self._skip())

    def _skip(self) -> BlockSkip | None:
        choice("rule", self.rule, tuple(RULES))
        if self.rule == OFF:
            return None
        values = {name: getattr(self, name) for name in RULES[self.rule]}
        if self.rule == "depths":
            values["depths"] = parse_depths(str(self.depths))
        return BlockSkip(rule=self.rule, **values)  # type: ignore[arg-type]

    def serves(self, hires: bool) -> bool:
        """Does the hires switch let this pass be served?"""
        return self.passes == BOTH or (self.passes == HIRES) == hires

    def infotext(self) -> dict[str, str]:
        """What goes into the picture's infotext: threshold and checkpoints always, a block rule with what it reads; the
        rest where it is not the default. Raises :class:`RecipeError` like :meth:`as_recipe`."""
        recipe = self.as_recipe()
        if str(self.recipe).strip():
            told = {"recipe": json.dumps(recipe.to_dict()), "passes": self.passes}
        else:
            unused = {"enabled", "custom", *SKIP_FIELDS} - {"rule", *RULES[self.rule]}
            told = {name: _text(value) for name, value in asdict(self).items() if name not in unused}
            told["checkpoints"] = _spaced((recipe.merge or TokenMerge()).checkpoints)
        always = ("threshold", "checkpoints", "every")
        return {key_of(k): v for k, v in told.items() if k in always or v != _text(getattr(PanelSettings, k))}


def key_of(name: str) -> str:
    """The infotext key of a field."""
    return INFOTEXT + name.replace("_", " ")


def read_infotext(name: str) -> Callable[[Mapping[str, str]], Any]:
    """What sets a field's component from pasted infotext: a function of the parsed keys.

    A picture made without Skipstone switches the panel off and leaves the rest alone; one made with it sets every field.
    """

    def read(params: Mapping[str, str]) -> Any:
        made_here = key_of("threshold") in params or key_of("recipe") in params
        if name == "enabled":
            return made_here
        return _field_from(name, params) if made_here else None

    return read


def _field_from(name: str, params: Mapping[str, str]) -> Any:
    default = getattr(PanelSettings, name)
    listed = params.get(key_of("checkpoints"), PanelSettings.checkpoints)
    if name in ("checkpoints", "custom"):
        known = listed in CHECKPOINT_PRESETS
        return (listed if known else CUSTOM) if name == "checkpoints" else ("" if known else listed)
    text = params.get(key_of(name), str(default))
    return text == "True" if isinstance(default, bool) else type(default)(text)


def _fields_of(skip: BlockSkip | None) -> dict[str, Any]:
    if skip is None or skip.rule not in RULES:
        return {}
    values = {name: getattr(skip, name) for name in RULES[skip.rule]}
    return {"rule": skip.rule, **values, "depths": _spaced(skip.depths)}


def _text(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:g}" if number else str(value)


def _spaced(calls: str | tuple[int, ...]) -> str:
    return calls if isinstance(calls, str) else " ".join(map(str, calls))
