"""The node "Load Recipe"."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.recipe.mask import Mask
from ..core.recipe.recipe import Recipe
from .files import MASK_FILES, RECIPE_FILES
from .patch import patched
from .widgets import RECIPES, found_by, writes_on_itself


class SkipstoneRecipeLoader(io.ComfyNode):
    """MODEL and a file in, MODEL out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model and a list of files."""
        return io.Schema(
            node_id="SkipstoneRecipeLoader",
            display_name="Load Recipe",
            category=RECIPES,
            description="Applies a recipe file to a model. A recipe can hold token merging or pruning, block skipping, "
            "or several of them.",
            inputs=[io.Model.Input("model", tooltip="The model to accelerate."), RECIPE_FILES.input()],
            outputs=[io.Model.Output(tooltip="The model with the recipe. The input model is not changed.")],
            **writes_on_itself(),
            **found_by("preset"),
        )

    @classmethod
    def execute(cls, model: Any, file: str) -> io.NodeOutput:
        """Patch the model. For a file that is not a recipe, the node says so and the model is returned unchanged.

        Args:
            model: the ModelPatcher.
            file: its name in the list.
        """
        return patched(model, lambda: read_recipe(RECIPE_FILES.path(file)), _content, cls.hidden.unique_id)

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: Any) -> float:
        """Time of the file's last change: a changed file is read again.

        Args:
            file: its name in the list.
            others: not used.
        """
        return RECIPE_FILES.changed(file)


def read_recipe(path: str) -> Recipe:
    """Read a recipe file; its mask is beside it or in the folder of masks. Raises :class:`SkipstoneError`."""
    recipe = Recipe.load(path)
    skip = recipe.skip
    if skip is None or not isinstance(skip.mask, str) or not skip.mask:
        return recipe
    mask = skip.mask if os.path.isfile(skip.mask) else MASK_FILES.path(skip.mask)
    return recipe.replace(skip=replace(skip, mask=Mask.load(mask)))


def summary(recipe: Recipe) -> str:
    """The methods of a recipe, in one line."""
    return ", ".join(method.kind.replace("_", " ") for method in recipe.methods) or "empty"


def _content(recipe: Recipe) -> str:
    return "off: this recipe changes nothing" if recipe.neutral else summary(recipe)
