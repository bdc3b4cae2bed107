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
    """Print a recipe, with every default filled in, as JSON."""

    file: File
    """Recipe file (.json) or preset name, for instance ca_tome."""


@dataclass(frozen=True)
class CheckRecipe:
    """Check whether a recipe file can run."""

    file: File
    """Recipe file (.json) or preset name."""


def show_recipe(options: ShowRecipe) -> None:
    """Print the recipe's JSON. Raises :class:`RecipeError` when it cannot be read."""
    print(as_recipe(options.file).to_json())


def check_recipe(options: CheckRecipe) -> None:
    """Print one line about the recipe. Raises :class:`RecipeError` that says what is wrong with it."""
    recipe: Recipe = as_recipe(options.file)
    name = recipe.name or Path(options.file).stem
    effect = "changes nothing (neutral settings)" if recipe.neutral else "runs " + ", ".join(_kinds(recipe))
    print(f"{name}: can run, {effect}")


def _kinds(recipe: Recipe) -> list[str]:
    return [method["kind"] for method in recipe.to_dict()["methods"]]
