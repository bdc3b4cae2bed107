"""Mask and profile files of the web UI, by their names in folders of its models.

No file is ever read or written elsewhere, because its name may come from pasted infotext or over the API.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..core.errors import MaskError, ProfileError, shown
from ..core.recipe.auto import Auto
from ..core.recipe.recipe import Method, Recipe
from .host import models_folder
from .table import FOLDERS


def names(setting: str) -> list[str]:
    """The files for a setting, those in subfolders too; none where the folder is missing."""
    root = _root(setting)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.safetensors"))


def located(recipe: Recipe) -> Recipe:
    """The recipe with the paths of its files in place of their names. Raises :class:`SkipstoneError` for an unknown name."""
    return Recipe.of(map(_located, recipe.methods), recipe.name)


def _located(method: Method) -> Method:
    if isinstance(method, Auto) and method.record and method.profile not in names("profile"):
        return replace(method, profile=_new_profile(method.profile))
    given = {setting: getattr(method, setting, "") for setting in FOLDERS}
    return replace(method, **{setting: _path(setting, name) for setting, name in given.items() if name})


def _path(setting: str, name: str) -> str:
    if name not in (known := names(setting)):
        there = ", ".join(known[:5]) or f"no {setting} file"
        raise MaskError(f"{setting}={name!r} is not in the folder models/{FOLDERS[setting]}: it has {there}")
    return str(_root(setting) / name)


def _new_profile(name: str) -> str:
    """The path of a profile that a run is to record. Raises :class:`ProfileError` for what is no plain file name."""
    if not name.endswith(".safetensors") or Path(name).name != name:
        raise ProfileError(
            f"record writes a new profile: give it a file name such as own.safetensors, not {shown(name)}"
        )
    _root("profile").mkdir(parents=True, exist_ok=True)
    return str(_root("profile") / name)


def _root(setting: str) -> Path:
    return models_folder() / FOLDERS[setting]
