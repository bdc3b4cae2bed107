"""Mask files of the web UI: those in the folder `skipstone_masks` of its models, known by their names in it.

A mask is never taken from elsewhere: its name may come from a pasted infotext or over the API.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..core.errors import MaskError
from ..core.recipe.recipe import Recipe
from .host import models_folder
from .table import MASK_FOLDER


def names() -> list[str]:
    """The mask files there are, subfolders included; none where the folder is missing."""
    root = _root()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.safetensors"))


def located(recipe: Recipe) -> Recipe:
    """The recipe with its mask's name made the path of the file. Raises :class:`MaskError` for a name that is none."""
    skip = recipe.skip
    if skip is None or not skip.mask:
        return recipe
    if skip.mask not in (known := names()):
        there = ", ".join(known[:5]) or "no mask file"
        raise MaskError(f"mask={skip.mask!r} is not in the folder models/{MASK_FOLDER}: it has {there}")
    return replace(recipe, skip=replace(skip, mask=str(_root() / skip.mask)))


def _root() -> Path:
    return models_folder() / MASK_FOLDER
