"""The three stages of a search, as spaces: cache depths, prune ratios over given depths, or depths with token settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ...plan.rules.depths import FULL_DEPTH
from ...recipe.block_skip import BlockSkip
from ...recipe.presets import DATO, preset
from ...recipe.recipe import Recipe
from ...recipe.token_merge import TokenMerge
from ...recipe.token_prune import TokenPrune
from .space import Space, Values, snap, stretched

FULL = 12
"""How a full call is written in lists; DaTo's own use 11, 12 and 13."""
INTERVALS = (2, 3, 4, 5, 6, 8, 10)
"""Of DeepCache, to start from."""
RATIOS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7)
SEGMENTS = 3
"""Parts of the run that have a ratio each where depths are searched with them."""
MERGING: dict[str, tuple[Any, ...]] = {
    "threshold": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "stride": ("2x2", "2x4", "4x4"),
    "checkpoints": ("config_1", "config_3", "config_five", "every"),
}
NO_MERGING = {"threshold": 1.0, "stride": "2x2", "checkpoints": "config_3"}


def stage_space(
    stage: str,
    base: Recipe,
    calls: int,
    levels: Sequence[int],
    tokens: Literal["prune", "merge"],
    also: Mapping[str, Recipe] | None = None,
) -> Space:
    """The space of a stage.

    Args:
        stage: "depths", "ratios" or "joint".
        base: recipe whose other settings are kept.
        calls: number of calls of a run.
        levels: depth codes to choose from.
        tokens: what the joint stage varies beside the depths.
        also: recipes whose depth lists join the starts, by name.

    Example:
        >>> space = stage_space("depths", Recipe(), calls=3, levels=(0, 1, 12), tokens="prune")
        >>> space.choices, space.recipe({"d01": 1, "d02": 12}).skip.depths
        ({'d01': (0, 1, 12), 'd02': (0, 1, 12)}, (1, 12))
    """
    if stage == "depths":
        return _depth_space(base, calls, levels, also)
    if stage == "ratios":
        return _ratio_space(base, calls, calls)
    other = _merge_space(base) if tokens == "merge" else _ratio_space(base, calls, SEGMENTS)
    depths = _depth_space(base.replace(merge=None, prune=None), calls, levels, also)

    def recipe(values: Values) -> Recipe:
        tokens, skip = other.recipe(values), depths.recipe(values).skip
        return Recipe(merge=tokens.merge, prune=tokens.prune, skip=skip)

    return joined(depths, other, recipe)


def _depth_space(base: Recipe, calls: int, levels: Sequence[int], also: Mapping[str, Recipe] | None = None) -> Space:
    """One depth code for each call from 1 on, out of `levels`; the other settings are the base recipe's."""
    names = tuple(f"d{k:02}" for k in range(1, calls))
    ordered = tuple(sorted({min(level, FULL) if level < FULL_DEPTH else FULL for level in levels}))

    def recipe(values: Values) -> Recipe:
        return _with_depths(base, [values[name] for name in names])

    lists = _depth_starts({**(also or {}), "recipe": base}, calls, ordered)
    starts = {title: dict(zip(names, codes, strict=True)) for title, codes in lists.items()}
    return Space(dict.fromkeys(names, ordered), (names,), recipe, starts)


def _with_depths(base: Recipe, codes: Sequence[int]) -> Recipe:
    """The base recipe with a list of depth codes, one for each call from 1 on."""
    settings = base.skip or BlockSkip()
    skip = dataclasses.replace(settings, rule="depths", depths=tuple(codes), mask="")
    return base.replace(skip=skip)


def _depth_starts(given: Mapping[str, Recipe], calls: int, levels: Sequence[int]) -> dict[str, list[int]]:
    """Lists worth a start: those given, DaTo's published ones at the same positions, DeepCache's intervals."""
    recipes = {**given, **{name: preset(name) for name in DATO}}
    known = {name: r.skip.depths for name, r in recipes.items() if r.skip and r.skip.depths}
    lists = {name: stretched(codes, calls - 1) for name, codes in known.items()}
    for every in INTERVALS:
        lists[f"DeepCache N={every}"] = [FULL if k % every == 0 else 1 for k in range(1, calls)]
    lists["all full"] = [FULL] * (calls - 1)
    lists["all shallow"] = [1] * (calls - 1)
    return {name: [snap(levels, min(code, FULL)) for code in codes] for name, codes in lists.items()}


def _ratio_space(base: Recipe, calls: int, parts: int) -> Space:
    """A prune ratio for each of `parts` equal parts of a run; as many parts as calls give every call its own."""
    settings = base.prune or TokenPrune()
    names = tuple(f"r{k:02}" for k in range(parts))
    levels = tuple(ratio for ratio in RATIOS if ratio <= settings.limit)

    def recipe(values: Values) -> Recipe:
        ratios = tuple(values[names[k * parts // calls]] for k in range(calls))
        return base.replace(merge=None, prune=dataclasses.replace(settings, ratio=ratios))

    starts = {f"ratio {level:g}": dict.fromkeys(names, level) for level in levels}
    return Space(dict.fromkeys(names, levels), (names,), recipe, starts)


def _merge_space(base: Recipe) -> Space:
    """Token merging's threshold, cell and checkpoint list; the other settings are the base recipe's."""

    def recipe(values: Values) -> Recipe:
        stride = tuple(map(int, values["stride"].split("x")))
        chosen = {"threshold": values["threshold"], "stride": stride, "checkpoints": values["checkpoints"]}
        return base.replace(prune=None, merge=dataclasses.replace(base.merge or TokenMerge(), **chosen))

    starts = {f"threshold {t:g}": {**NO_MERGING, "threshold": t} for t in reversed(MERGING["threshold"])}
    return Space(MERGING, (), recipe, starts)


def joined(one: Space, other: Space, recipe: Callable[[Values], Recipe]) -> Space:
    """Join two spaces. The first's starts take the second's in turn, mildest first.

    Args:
        one: a space.
        other: a space with other variables.
        recipe: makes the recipe of the values of both.

    Example:
        >>> one, other = (Space({n: (0, 1)}, (), None, {n: {n: 1}}) for n in "ab")
        >>> joined(one, other, recipe=lambda values: Recipe()).starts
        {'a': {'a': 1, 'b': 1}}
    """
    turns = list(other.starts.values())
    starts = {
        name: {**values, **turns[number % len(turns)]} for number, (name, values) in enumerate(one.starts.items())
    }
    return Space({**one.choices, **other.choices}, (*one.sequences, *other.sequences), recipe, starts)
