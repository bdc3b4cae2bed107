"""`skipstone recipe show` and `skipstone recipe check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..core.recipe.presets import as_recipe
from ..core.recipe.recipe import Recipe

File = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class ShowRecipe:
    """Print a recipe, with every default filled in, as JSON.

    Example:
        >>> ShowRecipe("ca_tome").file
        'ca_tome'
    """

    file: File
    """Recipe file (.json) or preset name, for instance ca_tome."""


@dataclass(frozen=True)
class CheckRecipe:
    """Check whether a recipe file can run.

    Example:
        >>> CheckRecipe("ca_tome").file
        'ca_tome'
    """

    file: File
    """Recipe file (.json) or preset name."""


def show_recipe(options: ShowRecipe) -> None:
    """Print a recipe's JSON. Raises :class:`RecipeError` if it cannot be read.

    Example:
        >>> show_recipe(ShowRecipe("ca_tome"))
        {
        ...
    """
    print(as_recipe(options.file).to_json())


def check_recipe(options: CheckRecipe) -> None:
    """Print one line about a recipe. Raises :class:`RecipeError` with what is wrong with it.

    Example:
        >>> check_recipe(CheckRecipe("ca_tome"))
        ca_tome: can run, runs token_merge
    """
    recipe: Recipe = as_recipe(options.file)
    name = recipe.name or Path(options.file).stem
    effect = "changes nothing (neutral settings)" if recipe.neutral else "runs " + ", ".join(_kinds(recipe))
    print(f"{name}: can run, {effect}")


def _kinds(recipe: Recipe) -> list[str]:
    return [method["kind"] for method in recipe.to_dict()["methods"]]
