"""Folders of Skipstone's files in ComfyUI: models/NAME, and output/NAME for what its nodes have saved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..core.errors import FileError, MaskError, ProfileError, RecipeError, SkipstoneError
from ..core.files import make_folder


@dataclass(frozen=True)
class Folder:
    """The folders of one kind of file.

    Args:
        folder: their name below models and output.
        suffix: ending of the files' names.
        noun: what a file is, in messages.
        error: raised for a file that does not exist.
    """

    folder: str
    suffix: str
    noun: str
    error: type[SkipstoneError]

    @property
    def none_yet(self) -> str:
        """Advice, shown in a list of files that would be empty."""
        return f"(no {self.noun} yet: put one into models/{self.folder})"

    def register(self) -> None:
        """Make ComfyUI list the files of models/ and, as it does for its own saved models, those of output/."""
        for parent in (folder_paths.models_dir, folder_paths.get_output_directory()):
            folder_paths.add_model_folder_path(self.folder, os.path.join(parent, self.folder))

    def input(self, more: str = "") -> Any:
        """A list of the files, for a node's schema.

        Args:
            more: text to add to the tooltip.
        """
        places = f"models/{self.folder} or output/{self.folder}"
        return io.Combo.Input("file", options=self.names(), tooltip=f"A {self.noun} file from {places}.{more}")

    def names(self) -> list[str]:
        """Files to choose from; one line of advice where there are none."""
        names = folder_paths.get_filename_list(self.folder)
        return [name for name in names if name.endswith(self.suffix)] or [self.none_yet]

    def path(self, name: str) -> str:
        """Path of a file. Raises `error` where it does not exist."""
        path = folder_paths.get_full_path(self.folder, name)
        if path is None or not name.endswith(self.suffix):
            raise self.error(
                f"there is no {self.noun} {name!r}: put it into models/{self.folder} and reload the node list (R)"
            )
        return path

    def changed(self, name: str) -> float:
        """When a file was last written, in seconds; 0 where it does not exist."""
        try:
            return os.path.getmtime(self.path(name))
        except (SkipstoneError, OSError):
            return 0.0

    def new_path(self, prefix: str) -> str:
        """A free path below output/.

        Args:
            prefix: start of the file name; folders are allowed.

        Raises `error` for a prefix that leads out of the folder, and :class:`FileError` where no folder can be made.
        """
        place = os.path.join(folder_paths.get_output_directory(), self.folder)
        try:
            folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, place)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise FileError(
                f"cannot make the folder of {prefix[:60]!r} ({reason}): free space or allow writing"
            ) from None
        except Exception:  # ComfyUI raises a bare one
            raise self.error(
                f"filename_prefix {prefix[:60]!r} leads out of output/{self.folder}: give a plain name"
            ) from None
        return os.path.join(folder, f"{name}_{counter:05}_{self.suffix}")

    def saved_path(self, name: str) -> str:
        """Path below output/ of the file of that name, which need not exist. The folder is made.

        Raises :class:`FileError` where no folder can be made.
        """
        place = os.path.join(folder_paths.get_output_directory(), self.folder)
        make_folder(place)
        return os.path.join(place, name + self.suffix)


MASK_FILES = Folder("skipstone_masks", ".safetensors", "mask", MaskError)
RECIPE_FILES = Folder("skipstone_recipes", ".json", "recipe", RecipeError)
PROFILE_FILES = Folder("skipstone_profiles", ".safetensors", "profile", ProfileError)


def register_folders() -> None:
    """Make ComfyUI list the files of all kinds."""
    MASK_FILES.register()
    RECIPE_FILES.register()
    PROFILE_FILES.register()
