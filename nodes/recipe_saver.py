"""The node "Save Recipe"."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..core.errors import RecipeError, SkipstoneError
from ..core.recipe.mask import Mask
from ..core.recipe.recipe import Recipe
from .files import MASK_FILES, RECIPE_FILES
from .messages import show_on_node, warn
from .patch import recipe_on
from .recipe_loader import summary
from .widgets import RECIPE, RECIPES, prefix_input, writes_on_itself


class SkipstoneRecipeSaver(io.ComfyNode):
    """A patched MODEL in, a recipe file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What to save, under which name."""
        return io.Schema(
            node_id="SkipstoneRecipeSaver",
            display_name="Save Recipe",
            category=RECIPES,
            description=f"Saves what the Skipstone nodes before it do to a model, to output/{RECIPE_FILES.folder}. Load "
            "Recipe and the other hosts can read the file.",
            inputs=[
                io.Model.Input("model", tooltip="A model with Skipstone nodes on it."),
                prefix_input("recipe"),
                RECIPE.Input("recipe", optional=True, tooltip="A recipe to save in place of what is on the model."),
            ],
            **writes_on_itself(),
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, filename_prefix: str, recipe: Recipe | None = None) -> io.NodeOutput:
        """Write the file, and show its name and content on the node.

        Args:
            model: the ModelPatcher.
            filename_prefix: start of the file name.
            recipe: what to save; None for what is on the model.
        """
        node_id = cls.hidden.unique_id
        try:
            show_on_node(write_recipe(recipe_on(model) if recipe is None else recipe, filename_prefix), node_id)
        except SkipstoneError as error:
            warn(f"{error}; nothing was saved", node_id)
        return io.NodeOutput()


def write_recipe(recipe: Recipe, prefix: str) -> str:
    """Save a recipe, with its mask in a file beside it.

    Args:
        recipe: what the nodes do to the model.
        prefix: start of the file name.

    Returns the file's name and content in one line. Raises :class:`SkipstoneError`.
    """
    if not recipe.methods:
        raise RecipeError("no Skipstone node is on this model")
    path = RECIPE_FILES.new_path(prefix)
    if recipe.skip and isinstance(recipe.skip.mask, Mask):
        beside = path.removesuffix(RECIPE_FILES.suffix) + MASK_FILES.suffix
        recipe.skip.mask.save(beside)
        recipe = recipe.replace(skip=replace(recipe.skip, mask=os.path.basename(beside)))
    recipe.save(path)
    return f"{os.path.basename(path)}: {summary(recipe)}"
