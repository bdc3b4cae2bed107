"""Which part runs the settings of which method. A new method is one line here and one in `recipe.recipe.METHODS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..recipe.block_skip import BlockSkip
from ..recipe.recipe import Method
from ..recipe.token_merge import TokenMerge
from ..recipe.token_prune import TokenPrune
from .block_part import BlockPart
from .merge import MergePart
from .network import Network
from .prune import PrunePart
from .session import Maker

PARTS: dict[type[Any], Callable[[Any, Network], Maker]] = {
    TokenMerge: MergePart.on,
    TokenPrune: PrunePart.on,
    BlockSkip: BlockPart.on,
}
"""Settings class -> what makes the part of a run, for a network. Raises :class:`SkipstoneError` where it cannot be served."""


def makers(methods: Iterable[Method], network: Network) -> list[Maker]:
    """One for each method that changes anything, in the recipe's order: a later part wraps an earlier one on the same module."""
    return [PARTS[type(method)](method, network) for method in methods if not method.neutral]
