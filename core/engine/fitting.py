"""Which methods of a recipe a network can do."""

from __future__ import annotations

from torch import nn

from ..errors import SkipstoneError
from ..recipe.recipe import Recipe
from .engine import Engine


def refusals(network: nn.Module, recipe: Recipe) -> dict[str, str]:
    """Kind -> why not, in one line, for each method of the recipe that this network cannot do. Nothing is changed on it."""
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
    """The recipe less the methods of these kinds."""
    return Recipe.of((m for m in recipe.methods if m.kind not in kinds), recipe.name)
