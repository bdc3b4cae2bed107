"""Where ComfyUI keeps Skipstone's files: in models/NAME, and in output/NAME what its nodes have saved."""

from __future__ import annotations

import os
from dataclasses import dataclass

import folder_paths

from ..core.errors import FileError, MaskError, RecipeError, SkipstoneError


@dataclass(frozen=True)
class Shelf:
    """One kind of file. folder: its name below models and output. noun: what a file is. error: raised for one that is gone."""

    folder: str
    suffix: str
    noun: str
    error: type[SkipstoneError]

    @property
    def none_yet(self) -> str:
        """Advice, shown in a list of files that would be empty."""
        return f"(no {self.noun} yet: put one into models/{self.folder})"

    def register(self) -> None:
        """Files are looked for in models/ and, as ComfyUI does for what it saves, in output/."""
        for parent in (folder_paths.models_dir, folder_paths.get_output_directory()):
            folder_paths.add_model_folder_path(self.folder, os.path.join(parent, self.folder))

    def names(self) -> list[str]:
        """Files to choose from; one line of advice where there are none."""
        names = folder_paths.get_filename_list(self.folder)
        return [name for name in names if name.endswith(self.suffix)] or [self.none_yet]

    def path(self, name: str) -> str:
        """Path of a file. Raises the shelf's error when it is gone."""
        path = folder_paths.get_full_path(self.folder, name)
        if path is None or not name.endswith(self.suffix):
            raise self.error(
                f"there is no {self.noun} {name!r}: put it into models/{self.folder} and reload the node list (R)"
            )
        return path

    def changed(self, name: str) -> float:
        """When a file was last written; 0 when it is gone."""
        try:
            return os.path.getmtime(self.path(name))
        except (SkipstoneError, OSError):
            return 0.0

    def new_path(self, prefix: str) -> str:
        """A path below output/ that is not taken. Raises the shelf's error for a prefix that leads out, and
        :class:`FileError` where no folder can be made."""
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


MASK_FILES = Shelf("skipstone_masks", ".safetensors", "mask", MaskError)
RECIPE_FILES = Shelf("skipstone_recipes", ".json", "recipe", RecipeError)


def register_folders() -> None:
    """Tell ComfyUI where all of them lie."""
    MASK_FILES.register()
    RECIPE_FILES.register()
