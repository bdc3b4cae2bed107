"""ComfyUI host: thin V3 nodes over plain functions. The only room that imports `comfy`; imported by `comfy_entrypoint` alone."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .dato import SkipstoneDaTo
from .files import register_folders
from .mask_rule import SkipstoneMaskRule
from .masks import SkipstoneBlockMask, SkipstoneMaskLoader, SkipstoneMaskPreview, SkipstoneMaskSaver
from .recipes import SkipstoneRecipeLoader, SkipstoneRecipeSaver
from .token_merge import SkipstoneTokenMerge
from .train_mask import SkipstoneTrainMask


class SkipstoneExtension(ComfyExtension):
    """Lists the nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes, in menu order. ComfyUI learns where files lie before it asks for the list of them."""
        register_folders()
        return [
            SkipstoneTokenMerge,
            SkipstoneDaTo,
            SkipstoneBlockMask,
            SkipstoneMaskRule,
            SkipstoneMaskLoader,
            SkipstoneMaskSaver,
            SkipstoneMaskPreview,
            SkipstoneTrainMask,
            SkipstoneRecipeLoader,
            SkipstoneRecipeSaver,
        ]
