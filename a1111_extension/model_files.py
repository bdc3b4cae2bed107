"""Recipe, mask and profile files of the web UI, by their names in folders of its models.

No file is ever read or written elsewhere, because its name may come from pasted infotext or over the API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ..core.errors import FileError, MaskError, ProfileError, SkipstoneError, reason_of, shown
from ..core.files import make_folder, whole_file
from ..core.forecast.profile import Profile
from ..core.recipe.auto import Auto
from ..core.recipe.mask import Mask
from ..core.recipe.recipe import Method, Recipe
from .host import models_folder
from .table import FOLDERS

SUFFIXES = {"recipe": ".json", "mask": ".safetensors", "profile": ".safetensors"}
"""Kind of file -> the end of its name."""
_LOADED_BY: dict[str, Callable[[str | Path], Recipe | Mask | Profile]] = {
    "recipe": Recipe.load,
    "mask": Mask.load,
    "profile": Profile.load,
}
_FORBIDDEN = frozenset('<>:"/\\|?*')
_MOST_NAME = 100


def names(setting: str) -> list[str]:
    """The files of a kind, those in subfolders too; none where the folder is missing.

    Args:
        setting: "mask", "profile" or "recipe".
    """
    root = _root(setting)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob(f"*{SUFFIXES[setting]}"))


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
        raise MaskError(f"{setting}={name!r} is not in the folder models/{_root(setting).name}: it has {there}")
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
    return models_folder() / ({"recipe": "skipstone_recipes"} | FOLDERS)[setting]


def opened(kind: str, name: str) -> Recipe | Mask | Profile:
    """What a file has. Raises :class:`SkipstoneError` for an unknown name and for a file that cannot be read.

    Args:
        kind: of :data:`SUFFIXES`.
        name: one of :func:`names`.
    """
    return _LOADED_BY[kind](_path(kind, name))


def free_path(kind: str, name: str) -> Path:
    """Where a new file goes; its suffix may be left out. The folder is made.

    Args:
        kind: of :data:`SUFFIXES`.
        name: a plain name, without folders.

    Raises :class:`FileError` for another name, and for one that is taken.
    """
    plain = f"{name.strip().removesuffix(SUFFIXES[kind])}{SUFFIXES[kind]}"
    stem = plain.removesuffix(SUFFIXES[kind])
    odd = (
        not stem or stem.startswith(".") or len(plain) > _MOST_NAME or not plain.isprintable() or _FORBIDDEN & {*plain}
    )
    if odd:
        raise FileError(f"{shown(name)} cannot be a file's name: give a plain one, such as own{SUFFIXES[kind]}")
    path = _root(kind) / plain
    if path.exists():
        raise FileError(f"there is a {kind} {plain!r} already: give another name")
    make_folder(path.parent)
    return path


def renamed(kind: str, name: str, new: str) -> str:
    """Give a file another name, in the folder itself. Raises :class:`SkipstoneError`.

    Args:
        kind: of :data:`SUFFIXES`.
        name: one of :func:`names`.
        new: a plain name.
    """
    path, target = Path(_path(kind, name)), free_path(kind, new)
    try:
        path.rename(target)
    except OSError as error:
        raise FileError(f"{name!r} cannot be renamed ({reason_of(error)}): allow writing to its folder") from None
    return target.name


def deleted(kind: str, name: str) -> None:
    """Delete a file. Raises :class:`SkipstoneError`.

    Args:
        kind: of :data:`SUFFIXES`.
        name: one of :func:`names`.
    """
    try:
        Path(_path(kind, name)).unlink()
    except OSError as error:
        raise FileError(f"{name!r} cannot be deleted ({reason_of(error)}): allow writing to its folder") from None


def received(kinds: Iterable[str], path: Path, name: str) -> tuple[str, str]:
    """Copy a file into the folder of its kind: its kind and name there. Raises :class:`SkipstoneError` if it is of none.

    Args:
        kinds: that are taken.
        path: of the file.
        name: that it had.
    """
    for kind in kinds:
        try:
            _LOADED_BY[kind](path)
        except SkipstoneError:
            continue
        target = free_path(kind, name)
        with whole_file(target) as part:
            part.write_bytes(path.read_bytes())
        return kind, target.name
    raise FileError(f"{shown(name)} is no {' or '.join(kinds)} of Skipstone: choose another file")
