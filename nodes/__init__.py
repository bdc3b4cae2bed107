"""ComfyUI host: thin V3 nodes over plain functions. The only room that imports `comfy`; imported by `comfy_entrypoint` alone."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .mask_store import register_folders
from .masks import SkipstoneBlockMask, SkipstoneMaskLoader, SkipstoneMaskPreview, SkipstoneMaskRule, SkipstoneMaskSaver
from .token_merge import SkipstoneTokenMerge


class SkipstoneExtension(ComfyExtension):
    """Lists the nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes, in menu order. ComfyUI learns where masks lie before it asks for the list of them."""
        register_folders()
        return [
            SkipstoneTokenMerge,
            SkipstoneBlockMask,
            SkipstoneMaskRule,
            SkipstoneMaskLoader,
            SkipstoneMaskSaver,
            SkipstoneMaskPreview,
        ]
