"""The ways to use fewer multiply-adds that `skipstone bench fidelity` compares on the demo's models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...core.recipe.block_skip import BlockSkip
from ...core.recipe.presets import DATO, as_recipe, preset
from ...core.recipe.recipe import Method, Recipe
from ...core.recipe.token_merge import TokenMerge
from ...core.recipe.token_prune import TokenPrune

Model = Literal["unet", "dit", "flow"]
FEWER = "fewer steps"
_SHARES = (0.9, 0.76, 0.64, 0.5, 0.4, 0.34, 0.26, 0.2, 0.14, 0.1)
"""Shares of the steps that the control takes."""
_THRESHOLDS = (0.9, 0.8, 0.7)
_INTERVALS = (2, 3, 4, 5, 8)


@dataclass(frozen=True)
class Way:
    """One way to draw: by a recipe, or with fewer steps.

    Args:
        name: in tables.
        group: in plots.
        recipe: that accelerates it; None for dense.
        steps: of the sampler; the usual number if None.

    Example:
        >>> Way("25 steps", FEWER, steps=25).recipe is None
        True
    """

    name: str
    group: str
    recipe: Recipe | None = None
    steps: int | None = None


def ways(model: Model, steps: int, files: Sequence[Path] = ()) -> list[Way]:
    """The ways that are drawn beside the dense run; the user's files come last.

    Args:
        model: which of the demo's.
        steps: of the dense run.
        files: recipe (.json) and mask (.safetensors) files.

    Example:
        >>> [way.name for way in ways("dit", steps=4)][:5]
        ['3 steps', '2 steps', '1 steps', 'FORA 2', 'output 2']
    """
    counts = dict.fromkeys(max(1, round(share * steps)) for share in _SHARES)
    control = [Way(f"{n} steps", FEWER, steps=n) for n in counts if n < steps]
    rules = {"unet": _unet_rules, "dit": _dit_rules, "flow": _flow_rules}[model]()
    return [*control, *rules, *_merging(), *(Way(path.stem, "files", _from_file(path)) for path in files)]


def _unet_rules() -> Iterator[Way]:
    """DeepCache evenly and unevenly spaced, whole calls repeated, DaTo's presets; what is reused may be forecast."""
    for every in _INTERVALS:
        yield _skips(f"DeepCache {every}", "DeepCache", BlockSkip(every=every))
        yield _skips(f"DeepCache {every}, forecast", "DeepCache, forecast", BlockSkip(every=every, forecast=True))
    for every in (3, 5):
        yield _skips(f"DeepCache {every}, uneven", "DeepCache, uneven", BlockSkip(every=every, mode="quad"))
    for every in (2, 3):
        repeated = BlockSkip(rule="interval", every=every)
        yield _skips(f"call repeated {every}", "calls repeated", repeated)
        yield _skips(f"call forecast {every}", "calls forecast", replace(repeated, forecast=True))
    for name in DATO:
        yield from _dato(name, preset(name))
    merge = TokenMerge(threshold=0.8, matching="local", proportional=True)
    yield Way("DeepCache 3 + CA-ToMe", "both", Recipe(merge=merge, skip=BlockSkip(every=3)))


def _dato(name: str, recipe: Recipe) -> Iterator[Way]:
    """A preset, and its schedule alone."""
    yield Way(name, "DaTo", recipe)
    if recipe.skip and name != "dato_reference":  # whose schedule is another preset's
        yield _skips(f"{name}, unpruned", "DaTo, unpruned", recipe.skip)
        yield _skips(f"{name}, forecast", "DaTo, unpruned, forecast", replace(recipe.skip, forecast=True))


def _dit_rules() -> Iterator[Way]:
    """FORA with the branches that it caches, with whole blocks, and with branches continued in a straight line."""
    for every in _INTERVALS:
        yield _skips(f"FORA {every}", "FORA (branch)", BlockSkip(rule="fora", every=every, caching="branch"))
        yield _skips(f"output {every}", "interval, output", BlockSkip(rule="interval", every=every, caching="output"))
        forecast = BlockSkip(rule="fora", every=every, caching="branch", forecast=True)
        yield _skips(f"FORA {every}, forecast", "FORA, forecast", forecast)


def _flow_rules() -> Iterator[Way]:
    """Whole blocks repeated and forecast, what they add kept as one difference; and tokens pruned inside attention."""
    for every in _INTERVALS:
        for forecast, name in ((False, ""), (True, ", forecast")):
            skip = BlockSkip(rule="fora", every=every, caching="difference", forecast=forecast)
            yield _skips(f"FORA {every}{name}", f"FORA (difference){name}", skip)
    for ratio in (0.25, 0.5):
        yield Way(f"pruned {ratio:.0%}", "pruned", Recipe.of([TokenPrune(ratio=ratio)]))


def _merging() -> Iterator[Way]:
    """CA-ToMe as published, and as the preset `balanced` has it: local matching, proportional attention."""
    for threshold in _THRESHOLDS:
        yield Way(f"CA-ToMe {threshold}", "CA-ToMe", Recipe.of([TokenMerge(threshold)]))
        merge = TokenMerge(threshold, matching="local", proportional=True)
        yield Way(f"balanced {threshold}", "CA-ToMe, balanced", Recipe.of([merge]))


def _skips(name: str, group: str, skip: Method) -> Way:
    return Way(name, group, Recipe.of([skip]))


def _from_file(path: Path) -> Recipe:
    """A recipe (.json), or a mask as a recipe. Raises :class:`SkipstoneError` for anything else."""
    return as_recipe(path if path.suffix == ".json" else BlockSkip(mask=str(path)))
