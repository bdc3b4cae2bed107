"""The panel's values: from the host's argument list to a recipe and back. Knows no host.

The order of :class:`PanelSettings`' fields is the order of the API's `args` list, a public interface: append only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..core.errors import RecipeError, shown
from ..core.recipe.block_skip import BlockSkip, parse_depths
from ..core.recipe.checkpoint_lists import CHECKPOINT_PRESETS
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import MAX_DOWNSAMPLES, TokenMerge
from ..core.recipe.token_prune import TokenPrune, parse_ratios
from ..core.recipe.validate import choice
from .values import typed

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

WINDOW = ("start", "end")
"""What merging, pruning and all block rules read."""

BLOCK_FIELDS = ("last_full", "memory_budget", "offload", "forecast")
"""What every block rule and DaTo's depths read."""

SKIP_FIELDS = ("rule", "every", "branch", "depths", "mask", *BLOCK_FIELDS)
DATO_FIELDS = ("dato", "ratio", "ratios", "dato_depths", "recover_from")
TOKEN_FIELDS = ("matching", "max_downsample", *WINDOW)
"""What both merging and pruning read, beside where they act."""

DATO_CHOICES = (OFF, *(name for name in DATO if preset(name).prune == TokenPrune()), CUSTOM)
"""DaTo's presets that differ in their depths alone; the panel's other fields say the rest. Others are recipes."""


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
        """From the host's argument list, or from one mapping of field names to values in its first place.

        What is missing or None keeps its default; what is too much is dropped. Raises :class:`RecipeError` for a value of
        the wrong type and for a name that is no field.
        """
        names = [f.name for f in fields(cls)]
        by_name = args[0] if args and isinstance(args[0], Mapping) else dict(zip(names, args, strict=False))
        known_fields(by_name)
        return cls(**{k: typed(k, v, getattr(cls, k)) for k, v in by_name.items() if v is not None})

    @classmethod
    def of_recipe(cls, recipe: Recipe, passes: str = BOTH) -> PanelSettings:
        """The panel that asks for this recipe: by its fields where they can say it, else by its recipe box."""
        merge = recipe.merge or TokenMerge(threshold=1.0)
        listed = isinstance(merge.checkpoints, str)
        panel = cls(
            enabled=True,
            threshold=float(merge.threshold),
            checkpoints=str(merge.checkpoints) if listed else CUSTOM,
            custom="" if listed else spaced(merge.checkpoints),
            passes=passes,
            proportional=merge.proportional,
            destination=merge.destination,
            batch=merge.batch,
            **_token_fields(recipe.prune if merge.neutral and recipe.prune else merge),
            **_method_fields(recipe.prune, recipe.skip),
            **_window(recipe),
        )
        return panel if panel._says(recipe) else replace(panel, recipe=recipe.to_json())

    def _says(self, recipe: Recipe) -> bool:
        try:
            return effects(self.as_recipe()) == effects(recipe)
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
                f"threshold={merge.threshold:g} merges tokens that dato={self.dato!r} prunes: "
                "set Threshold to 1, or DaTo to off"
            )
        return Recipe(merge=merge, prune=prune, skip=self._skip())

    def _tokens(self) -> dict[str, Any]:
        """What both merging and pruning read."""
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
        values = {name: getattr(self, name) for name in (*RULES[self.rule], *BLOCK_FIELDS, *WINDOW)}
        if depths := self._dato_depths():
            if self.rule != OFF:
                raise RecipeError(
                    f"rule={self.rule!r} and dato={self.dato!r} both decide which blocks run: set one of them to off"
                )
            return BlockSkip(rule="depths", **{**values, "depths": depths})
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

    def after(self, chosen: str) -> PanelSettings:
        """These settings once the field `chosen` was set last: it counts, and what it excludes is turned off.

        DaTo prunes the tokens that a threshold below 1 merges, and its depths decide which blocks run, as a rule does.
        """
        prunes = self.ratio > 0 or bool(self.dato == CUSTOM and self.ratios.strip())
        depths = self.dato != OFF and (self.dato != CUSTOM or bool(self.dato_depths.strip()))
        if chosen in DATO_FIELDS and self.dato != OFF:
            return replace(self, threshold=1.0 if prunes else self.threshold, rule=OFF if depths else self.rule)
        if (chosen == "threshold" and self.threshold < 1 and prunes) or (
            chosen == "rule" and self.rule != OFF and depths
        ):
            return replace(self, dato=OFF)
        return self

    def serves(self, hires: bool) -> bool:
        """Does the hires switch let this pass be served?"""
        return self.passes == BOTH or (self.passes == HIRES) == hires


def known_fields(given: Mapping[Any, Any]) -> None:
    """Refuse a name that is no field of the panel."""
    if unknown := [name for name in given if name not in PanelSettings.__dataclass_fields__]:
        raise RecipeError(f"{shown(unknown[0])} is no argument of Skipstone: the user guide lists their names")


def _token_fields(method: TokenMerge | TokenPrune) -> dict[str, Any]:
    names = [name for name, targets in MERGE_IN.items() if set(targets) == set(method.targets)]
    return {
        "matching": method.matching,
        "max_downsample": str(method.max_downsample),
        "merge_in": names[0] if names else PanelSettings.merge_in,
    }


def _window(recipe: Recipe) -> dict[str, Any]:
    """The part of the run that the first method in use is on for."""
    used = [m for m in recipe.methods if not m.neutral] or recipe.methods
    return {name: float(getattr(used[0], name)) for name in WINDOW} if used else {}


def _method_fields(prune: TokenPrune | None, skip: BlockSkip | None) -> dict[str, Any]:
    """The fields of DaTo and of the block rule. Depths beside pruning are DaTo's, depths alone a rule."""
    values: dict[str, Any] = {}
    by_depths = prune is not None and skip is not None and skip.rule == "depths"
    if skip is not None and skip.rule in RULES:
        rule = OFF if by_depths else skip.rule
        values = {"rule": rule, **{name: getattr(skip, name) for name in (*RULES[rule], *BLOCK_FIELDS)}}
        values |= {"depths": spaced(skip.depths)} if rule == "depths" else {}
    if prune is None:
        return values
    depths = skip.depths if skip is not None and by_depths else ()
    named = [name for name in DATO_CHOICES[1:-1] if depths and getattr(preset(name).skip, "depths", ()) == depths]
    listed = isinstance(prune.ratio, tuple)
    values |= {"dato": named[0] if named and not listed else CUSTOM, "recover_from": prune.recover_from}
    values |= {"ratios": spaced(prune.ratios)} if listed else {"ratio": float(prune.ratios[0])}
    return values | ({} if named and not listed else {"dato_depths": spaced(depths)})


def effects(recipe: Recipe) -> tuple[Any, ...]:
    """What tells two recipes apart: a merging that changes nothing is as good as none."""
    merge = recipe.merge
    return (None if merge is None or merge.neutral else merge, recipe.prune, recipe.skip)


def spaced(calls: str | tuple[float, ...]) -> str:
    """A list as one types it: "0 8 11"; a preset's name as it is."""
    return calls if isinstance(calls, str) else " ".join(f"{call:g}" for call in calls)
