"""The nodes of recipe files: everything that Skipstone nodes do to a model, read from a file or kept in one."""

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
from .patch import patched, recipe_on

CATEGORY = "Skipstone/recipes"


class SkipstoneRecipeLoader(io.ComfyNode):
    """MODEL and a file in, MODEL out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model and a list of files."""
        return io.Schema(
            node_id="SkipstoneRecipeLoader",
            display_name="Load Recipe",
            category=CATEGORY,
            description="Applies a recipe file to a model. A recipe can hold token merging or pruning, block skipping, "
            "or several of them.",
            inputs=[
                io.Model.Input("model", tooltip="The model to accelerate."),
                io.Combo.Input(
                    "file", options=RECIPE_FILES.names(),
                    tooltip=f"A recipe file from models/{RECIPE_FILES.folder} or output/{RECIPE_FILES.folder}.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with the recipe. The input model is not changed.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, file: str) -> io.NodeOutput:
        """Patch the model. A file that is no recipe is told on the node, and the model passes through as it is."""
        return patched(model, lambda: read_recipe(RECIPE_FILES.path(file)), _told, cls.hidden.unique_id)

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: Any) -> float:
        """A file that changed is read anew."""
        return RECIPE_FILES.changed(file)


class SkipstoneRecipeSaver(io.ComfyNode):
    """A patched MODEL in, a recipe file out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What to save, under which name."""
        return io.Schema(
            node_id="SkipstoneRecipeSaver",
            display_name="Save Recipe",
            category=CATEGORY,
            description=f"Saves what the Skipstone nodes before it do to a model, to output/{RECIPE_FILES.folder}. Load "
            "Recipe and the other hosts can read the file.",
            inputs=[
                io.Model.Input("model", tooltip="A model with Skipstone nodes on it."),
                io.String.Input(
                    "filename_prefix", default="recipe",
                    tooltip="Start of the file name; a counter is added.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, filename_prefix: str) -> io.NodeOutput:
        """Write, and tell on the node what and where."""
        node_id = cls.hidden.unique_id
        try:
            show_on_node(write_recipe(recipe_on(model), filename_prefix), node_id)
        except SkipstoneError as error:
            warn(f"{error}; nothing was saved", node_id)
        return io.NodeOutput()


def _told(recipe: Recipe) -> str:
    return "off: this recipe changes nothing" if recipe.neutral else _line(recipe)


def read_recipe(path: str) -> Recipe:
    """A recipe file; its mask lies beside it or where mask files lie. Raises :class:`SkipstoneError`."""
    recipe = Recipe.load(path)
    skip = recipe.skip
    if skip is None or not isinstance(skip.mask, str) or not skip.mask:
        return recipe
    mask = skip.mask if os.path.isfile(skip.mask) else MASK_FILES.path(skip.mask)
    return replace(recipe, skip=replace(skip, mask=Mask.load(mask)))


def write_recipe(recipe: Recipe, prefix: str) -> str:
    """Save, with the mask in a file beside the recipe; what was written, in one line. Raises :class:`SkipstoneError`."""
    if not recipe.methods:
        raise RecipeError("no Skipstone node is on this model")
    path = RECIPE_FILES.new_path(prefix)
    if recipe.skip and isinstance(recipe.skip.mask, Mask):
        beside = path.removesuffix(RECIPE_FILES.suffix) + MASK_FILES.suffix
        recipe.skip.mask.save(beside)
        recipe = replace(recipe, skip=replace(recipe.skip, mask=os.path.basename(beside)))
    recipe.save(path)
    return f"{os.path.basename(path)}: {_line(recipe)}"


def _line(recipe: Recipe) -> str:
    return ", ".join(method.kind.replace("_", " ") for method in recipe.methods) or "empty"
