"""ComfyUI host: thin V3 nodes over plain functions. The only room that imports `comfy`; imported by `comfy_entrypoint` alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from comfy_api.latest import ComfyExtension, io

from .files import register_folders

NODES = {
    "SkipstoneTokenMerge": "token_merge",
    "SkipstoneDaTo": "dato",
    "SkipstoneBlockMask": "block_mask",
    "SkipstoneMaskRule": "mask_rule",
    "SkipstoneMaskLoader": "mask_loader",
    "SkipstoneMaskSaver": "mask_saver",
    "SkipstoneMaskPreview": "mask_preview",
    "SkipstoneTrainMask": "train_mask",
    "SkipstoneRecipeLoader": "recipe_loader",
    "SkipstoneRecipeSaver": "recipe_saver",
    "SkipstoneCallSkip": "call_skip",
    "SkipstoneAuto": "auto",
    "SkipstoneDemoModel": "demo_model",
    "SkipstoneCompare": "compare",
    "SkipstoneReport": "report",
}
"""Node class -> its file, in menu order. A new node is one file and one line here."""


def __getattr__(name: str) -> Any:
    """A node class, loaded on first use (PEP 562)."""
    if name not in NODES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{NODES[name]}", __name__), name)


class SkipstoneExtension(ComfyExtension):
    """Lists the nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes, in menu order. The folders of files are registered first, because schemas list their files."""
        register_folders()
        return [__getattr__(name) for name in NODES]
