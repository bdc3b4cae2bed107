"""Finds the methods of a recipe that a network supports."""

from __future__ import annotations

from torch import nn

from ..errors import SkipstoneError
from ..recipe.recipe import Recipe
from .engine import Engine


def refusals(network: nn.Module, recipe: Recipe) -> dict[str, str]:
    """Return kind -> reason, in one line, for each method of the recipe that this network does not support.

    Args:
        network: the U-Net or transformer; nothing is changed on it.
        recipe: the methods to try.

    Example:
        >>> from skipstone.core.recipe.token_merge import TokenMerge
        >>> refusals(nn.Linear(2, 2), Recipe.of([TokenMerge()]))["token_merge"].split(":")[0].split(" (")[0]
        'Linear is not of a supported family'
    """
    found: dict[str, str] = {}
    for method in recipe.methods:
        try:
            engine = Engine(network, Recipe.of([method]))
            engine.begin()
            engine.end()
        except SkipstoneError as error:
            found[method.kind] = str(error)
    return found


def without(recipe: Recipe, kinds: set[str]) -> Recipe:
    """Return the recipe without some methods.

    Args:
        recipe: any recipe.
        kinds: names of methods, as `refusals` has them.

    Example:
        >>> from skipstone.core.recipe.token_merge import TokenMerge
        >>> without(Recipe.of([TokenMerge()]), {"token_merge"}).methods
        ()
    """
    return Recipe.of((m for m in recipe.methods if m.kind not in kinds), recipe.name)
