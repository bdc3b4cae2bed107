"""Skipstone: faster diffusion pictures, with the picture kept.

This folder is the `skipstone` Python package, a ComfyUI node pack (`comfy_entrypoint`) and an AUTOMATIC1111/Forge
extension (through `scripts/`). Importing it does no work: names are loaded on first use.

Example:
    >>> from skipstone import TokenMerge
    >>> TokenMerge(threshold=0.7).threshold
    0.7
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

WEB_DIRECTORY = "./web"

_PUBLIC = {
    "accelerate": ".pipelines.accelerate",
    "apply_skipstone": ".pipelines.apply",
    "Handle": ".pipelines.accelerate",
    "SkipstoneCacheConfig": ".pipelines.apply",
    "BlockSkip": ".core.recipe.block_skip",
    "CallSkip": ".core.recipe.call_skip",
    "Auto": ".core.recipe.auto",
    "TokenMerge": ".core.recipe.token_merge",
    "TokenPrune": ".core.recipe.token_prune",
    "Recipe": ".core.recipe.recipe",
    "preset": ".core.recipe.presets",
    "SkipstoneError": ".core.errors",
    "load_demo": ".lab.demo_models.model",
}

__all__ = ["WEB_DIRECTORY", "__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562), so that hosts do not pay for names that they do not use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)


async def comfy_entrypoint() -> Any:
    """Return the extension that lists the nodes: ComfyUI's V3 entry point. ComfyUI is imported only here."""
    from .nodes import SkipstoneExtension

    return SkipstoneExtension()
