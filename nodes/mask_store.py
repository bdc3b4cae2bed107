"""Where ComfyUI keeps mask files, and how settings become a mask for the model at hand."""

from __future__ import annotations

import os
from typing import Any

import folder_paths
import numpy as np

from ..core.blocks import recognise, unwrapped
from ..core.blocks.graph import BlockGraph
from ..core.errors import MaskError, ModelError
from ..core.plan.liveness import liveness
from ..core.plan.mask import Mask
from ..core.plan.skips import compiled, evenly, graph_of
from ..core.recipe_skip import BlockSkip
from .patch import SERVES

FOLDER = "skipstone_masks"
SUFFIX = ".safetensors"
NONE_YET = f"(no mask yet: put one into models/{FOLDER})"


def register_folders() -> None:
    """Masks are looked for in models/skipstone_masks and, as ComfyUI does for what it saves, in output/skipstone_masks."""
    for parent in (folder_paths.models_dir, folder_paths.get_output_directory()):
        folder_paths.add_model_folder_path(FOLDER, os.path.join(parent, FOLDER))


def mask_names() -> list[str]:
    """Mask files to choose from; one line of advice where there are none."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIX)] or [NONE_YET]


def mask_path(name: str) -> str:
    """Path of a mask file. Raises :class:`MaskError` when it is gone."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None or not name.endswith(SUFFIX):
        raise MaskError(f"there is no mask {name!r}: put it into models/{FOLDER} and reload the node list (R)")
    return path


def new_path(prefix: str) -> str:
    """A path that is not taken, below output/skipstone_masks. Raises :class:`MaskError` for a prefix that leads out."""
    try:
        place = os.path.join(folder_paths.get_output_directory(), FOLDER)
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, place)
    except Exception:  # ComfyUI raises a bare one
        raise MaskError(f"filename_prefix {prefix!r} leads out of output/{FOLDER}: give a plain name") from None
    return os.path.join(folder, f"{name}_{counter:05}_{SUFFIX}")


def mask_of(model: Any, settings: BlockSkip, calls: int) -> tuple[Mask, BlockGraph]:
    """The settings as a mask for this ModelPatcher's network and `calls` evenly spaced calls, and the network's blocks.

    Raises :class:`SkipstoneError` for a model of no known family, or another than the mask was made for.
    """
    network = unwrapped(model.model.diffusion_model)
    try:
        family = recognise(network)
    except ModelError:
        raise ModelError(f"{type(model.model).__name__} is not supported: {SERVES[BlockSkip.kind]}") from None
    graph = graph_of(settings, family, network)
    return compiled(settings, graph, family.name, evenly(calls)), graph


def states_of(mask: Mask, graph: BlockGraph) -> np.ndarray:
    """[calls, blocks] of :class:`State`: what runs, is reused, or is needed by nobody."""
    return liveness(mask.run, graph)[:, list(graph.masked)]
