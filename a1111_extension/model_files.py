"""Mask and profile files of the web UI, by their names in folders of its models.

No file is ever read from elsewhere, because its name may come from pasted infotext or over the API.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..core.errors import MaskError
from ..core.recipe.recipe import Method, Recipe
from .host import models_folder
from .table import FOLDERS


def names(setting: str) -> list[str]:
    """The files for a setting, those in subfolders too; none where the folder is missing."""
    root = _root(setting)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.safetensors"))


def located(recipe: Recipe) -> Recipe:
    """The recipe with the paths of its files in place of their names. Raises :class:`MaskError` for an unknown name."""
    return Recipe.of(map(_located, recipe.methods), recipe.name)


def _located(method: Method) -> Method:
    given = {setting: getattr(method, setting, "") for setting in FOLDERS}
    return replace(method, **{setting: _path(setting, name) for setting, name in given.items() if name})


def _path(setting: str, name: str) -> str:
    if name not in (known := names(setting)):
        there = ", ".join(known[:5]) or f"no {setting} file"
        raise MaskError(f"{setting}={name!r} is not in the folder models/{FOLDERS[setting]}: it has {there}")
    return str(_root(setting) / name)


def _root(setting: str) -> Path:
    return models_folder() / FOLDERS[setting]
