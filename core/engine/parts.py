"""Maps each method's settings to its part. A new method takes one line here and one in `recipe.recipe.METHODS`."""

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
from .part import Maker
from .prune import PrunePart

PARTS: dict[type[Any], Callable[[Any, Network], Maker]] = {
    TokenMerge: MergePart.on,
    TokenPrune: PrunePart.on,
    BlockSkip: BlockPart.on,
}
"""Settings class -> function that binds settings to a network, and returns what makes the part of each run.

It raises :class:`SkipstoneError` if the network cannot be served.
"""


def makers(methods: Iterable[Method], network: Network) -> list[Maker]:
    """Return what makes the parts of a run, one for each method that changes anything.

    The order is the recipe's: a later part wraps an earlier one on the same module.

    Args:
        methods: settings of each method.
        network: the model.

    Raises :class:`SkipstoneError` if the network cannot be served.

    Example:
        >>> makers([TokenMerge(threshold=1.0)], network=None)  # neutral
        []
    """
    return [PARTS[type(method)](method, network) for method in methods if not method.neutral]
