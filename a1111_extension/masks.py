"""Mask files of the web UI, by their names in the folder `skipstone_masks` of its models.

A mask is never read from elsewhere, because its name may come from pasted infotext or over the API.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..core.errors import MaskError
from ..core.recipe.recipe import Recipe
from .host import models_folder
from .table import MASK_FOLDER


def names() -> list[str]:
    """The mask files, those in subfolders too; none where the folder is missing."""
    root = _root()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.safetensors"))


def located(recipe: Recipe) -> Recipe:
    """The recipe with the path of the mask file in place of its name. Raises :class:`MaskError` for an unknown name."""
    skip = recipe.skip
    if skip is None or not skip.mask:
        return recipe
    if skip.mask not in (known := names()):
        there = ", ".join(known[:5]) or "no mask file"
        raise MaskError(f"mask={skip.mask!r} is not in the folder models/{MASK_FOLDER}: it has {there}")
    return recipe.replace(skip=replace(skip, mask=str(_root() / skip.mask)))


def _root() -> Path:
    return models_folder() / MASK_FOLDER
