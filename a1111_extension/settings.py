"""The panel's values: from the host's argument list to a recipe, to infotext and back. Knows no host.

The order of :class:`PanelSettings`' fields is the order of the API's `args` list, a public interface: append only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..core.checks import choice
from ..core.errors import RecipeError
from ..core.presets_dato import DATO
from ..core.recipe import MAX_DOWNSAMPLES, BlockSkip, Recipe, TokenMerge, preset
from ..core.recipe_prune import TokenPrune, parse_ratios
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
    "deepcache": ("every", "branch"),
    "interval": ("every",),
    "depths": ("depths",),
    "mask": ("mask",),
}
"""Block rules, and the fields that each reads."""

BLOCK_FIELDS = ("last_full", "memory_budget", "offload", "forecast")
"""What every block rule and DaTo's depths read."""

SKIP_FIELDS = ("rule", "every", "branch", "depths", "mask", *BLOCK_FIELDS)
DATO_FIELDS = ("dato", "ratio", "ratios", "dato_depths", "recover_from")
TOKEN_FIELDS = ("matching", "max_downsample", "start", "end")
"""What merging and pruning read alike, beside where they act."""

DATO_CHOICES = (OFF, *(name for name in DATO if preset(name).prune == TokenPrune()), CUSTOM)
"""DaTo's presets that differ in their depths alone; the panel's other fields say the rest. Others are recipes."""

INFOTEXT = "Skipstone "
"""All infotext keys begin so. The rest of a key is the field's name, with blanks for underscores."""

MERGED, PRUNED, BLOCKS_RUN = INFOTEXT + "merged", INFOTEXT + "pruned", INFOTEXT + "blocks run"
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
    memory_budget: float = 0.0
    offload: bool = False
    forecast: bool = False
    dato: str = OFF
    ratio: float = 0.4
    ratios: str = ""
    dato_depths: str = ""
    recover_from: str = TokenPrune.recover_from

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
        panel = cls(
            enabled=True,
            threshold=float(merge.threshold),
            checkpoints=str(merge.checkpoints) if listed else CUSTOM,
            custom="" if listed else _spaced(merge.checkpoints),
            passes=passes,
            proportional=merge.proportional,
            destination=merge.destination,
            batch=merge.batch,
            **_token_fields(recipe.prune if merge.neutral and recipe.prune else merge),
            **_method_fields(recipe.prune, recipe.skip),
        )
        return panel if panel._says(recipe) else replace(panel, recipe=recipe.to_json())

    def _says(self, recipe: Recipe) -> bool:
        try:
            return _effects(self.as_recipe()) == _effects(recipe)
        except RecipeError:
            return False

    def as_recipe(self) -> Recipe:
        """The recipe that is asked for. Raises :class:`RecipeError` in one line for values that make no sense."""
        choice("passes", self.passes, PASSES)
        if str(self.recipe).strip():
            return Recipe.from_json(str(self.recipe))
        merge = TokenMerge(
            threshold=self.threshold,
            checkpoints=self.custom if self.checkpoints == CUSTOM else self.checkpoints,
            proportional=self.proportional,
            destination=self.destination,  # type: ignore[arg-type]
            batch=self.batch,  # type: ignore[arg-type]
            **self._tokens(),
        )
        prune = self._prune()
        if prune is not None and not prune.neutral and not merge.neutral:
            raise RecipeError(
                f"threshold={merge.threshold:g} merges tokens and dato={self.dato!r} prunes the same ones: "
                "set Threshold to 1, or DaTo to off"
            )
        return Recipe(merge=merge, prune=prune, skip=self._skip())

    def _tokens(self) -> dict[str, Any]:
        """What merging and pruning read alike."""
        choice("merge in", self.merge_in, tuple(MERGE_IN))
        choice("coarsest level", str(self.max_downsample), LEVELS)
        level = str(self.max_downsample)
        same = {name: getattr(self, name) for name in TOKEN_FIELDS}
        return {**same, "max_downsample": int(level) if level.isdigit() else "auto", "targets": MERGE_IN[self.merge_in]}

    def _prune(self) -> TokenPrune | None:
        choice("dato", self.dato, DATO_CHOICES)
        if self.dato == OFF:
            return None
        listed = self.dato == CUSTOM and str(self.ratios).strip()
        ratio = parse_ratios(str(self.ratios)) if listed else self.ratio
        return TokenPrune(ratio=ratio, recover_from=self.recover_from, **self._tokens())  # type: ignore[arg-type]

    def _skip(self) -> BlockSkip | None:
        choice("rule", self.rule, tuple(RULES))
        values = {name: getattr(self, name) for name in (*RULES[self.rule], *BLOCK_FIELDS)}
        if depths := self._dato_depths():
            if self.rule != OFF:
                raise RecipeError(
                    f"rule={self.rule!r} and dato={self.dato!r} both say which blocks run: set one of them to off"
                )
            return BlockSkip(rule="depths", **{**values, "depths": depths, "start": self.start, "end": self.end})
        if self.rule == OFF:
            return None
        if self.rule == "depths":
            values["depths"] = parse_depths(str(self.depths))
        return BlockSkip(rule=self.rule, **values)  # type: ignore[arg-type]

    def _dato_depths(self) -> tuple[int, ...]:
        """Those of the preset or of one's own; empty for pruning alone."""
        if self.dato == CUSTOM:
            return parse_depths(str(self.dato_depths)) if str(self.dato_depths).strip() else ()
        skip = None if self.dato == OFF else preset(self.dato).skip
        return skip.depths if skip else ()

    def serves(self, hires: bool) -> bool:
        """Does the hires switch let this pass be served?"""
        return self.passes == BOTH or (self.passes == HIRES) == hires

    def infotext(self) -> dict[str, str]:
        """What goes into the picture's infotext: threshold and checkpoints always, a block rule and DaTo with what they
        read; the rest where it is not the default. Raises :class:`RecipeError` like :meth:`as_recipe`."""
        recipe = self.as_recipe()
        if str(self.recipe).strip():
            told = {"recipe": json.dumps(recipe.to_dict()), "passes": self.passes}
        else:
            told = {name: _text(getattr(self, name)) for name in self._read(recipe)}
            told["checkpoints"] = _spaced((recipe.merge or TokenMerge()).checkpoints)
        always = ("threshold", "checkpoints", "every", "ratio")
        return {key_of(k): v for k, v in told.items() if k in always or v != _text(getattr(PanelSettings, k))}

    def _read(self, recipe: Recipe) -> Iterator[str]:
        """The fields that make up the recipe."""
        own = () if self.dato != CUSTOM else ("ratios", "dato_depths")
        dato = ("dato",) if self.dato == OFF else ("dato", "ratio", "recover_from", *own)
        blocks = BLOCK_FIELDS if recipe.skip else ()
        read = {"rule", *RULES[self.rule], *blocks, *dato}
        optional = {"enabled", "custom", *SKIP_FIELDS, *DATO_FIELDS}
        return (f.name for f in fields(self) if f.name in read or f.name not in optional)


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


def _token_fields(method: TokenMerge | TokenPrune) -> dict[str, Any]:
    names = [name for name, targets in MERGE_IN.items() if set(targets) == set(method.targets)]
    return {
        "matching": method.matching,
        "max_downsample": str(method.max_downsample),
        "merge_in": names[0] if names else PanelSettings.merge_in,
        "start": float(method.start),
        "end": float(method.end),
    }


def _method_fields(prune: TokenPrune | None, skip: BlockSkip | None) -> dict[str, Any]:
    """The fields of DaTo and of the block rule. Depths beside pruning are DaTo's, depths alone a rule."""
    values: dict[str, Any] = {}
    by_depths = prune is not None and skip is not None and skip.rule == "depths"
    if skip is not None and skip.rule in RULES:
        rule = OFF if by_depths else skip.rule
        values = {"rule": rule, **{name: getattr(skip, name) for name in (*RULES[rule], *BLOCK_FIELDS)}}
        values |= {"depths": _spaced(skip.depths)} if rule == "depths" else {}
    if prune is None:
        return values
    depths = skip.depths if skip is not None and by_depths else ()
    named = [name for name in DATO_CHOICES[1:-1] if depths and getattr(preset(name).skip, "depths", ()) == depths]
    listed = isinstance(prune.ratio, tuple)
    values |= {"dato": named[0] if named and not listed else CUSTOM, "recover_from": prune.recover_from}
    values |= {"ratios": _spaced(prune.ratios)} if listed else {"ratio": float(prune.ratios[0])}
    return values | ({} if named and not listed else {"dato_depths": _spaced(depths)})


def _effects(recipe: Recipe) -> tuple[Any, ...]:
    """What tells two recipes apart: a merging that changes nothing is as good as none."""
    merge = recipe.merge
    return (None if merge is None or merge.neutral else merge, recipe.prune, recipe.skip)


def _text(value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:g}" if number else str(value)


def _spaced(calls: str | tuple[float, ...]) -> str:
    return calls if isinstance(calls, str) else " ".join(f"{call:g}" for call in calls)
