"""The block rules by name. A new rule takes one file here, a line in :data:`RULES`, and a name in `recipe.block_skip.RuleName`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...models.graph import BlockGraph
from ...recipe.block_skip import RULES as READ_BY
from ...recipe.block_skip import BlockSkip
from ...recipe.mask import load_mask
from ..mask_fit import fitted
from .base import Rule
from .by_mask import ByMask
from .deepcache import DeepCache
from .depths import Depths
from .interval import Interval

RULES: dict[str, Callable[..., Rule]] = {
    "deepcache": DeepCache,
    "interval": Interval,
    "fora": Interval,
    "depths": Depths,
    "mask": ByMask,
}
"""Name -> class. `recipe.block_skip.RULES` lists the settings that are its arguments."""


def rule_of(settings: BlockSkip, graph: BlockGraph, family: str) -> Rule:
    """Return the rule that the settings name.

    Args:
        settings: rule or mask, with its parameters.
        graph: the model's blocks.
        family: name of the model's family.

    Raises :class:`MaskError` for a mask that does not fit the model.

    Example:
        >>> rule_of(BlockSkip(rule="interval", every=2), BlockGraph((), (), frozenset()), "toy")
        Interval(every=2)
    """
    values: dict[str, Any] = {name: getattr(settings, name) for name in READ_BY[settings.rule]}
    if (mask := load_mask(settings)) is not None:
        values["mask"] = fitted(mask, family, graph)
    return RULES[settings.rule](**values)


def followed(settings: BlockSkip, rule: Rule) -> BlockSkip:
    """Return the settings as the rule applies them: a mask made for forecasts turns `forecast` on.

    Args:
        settings: as given.
        rule: the rule of the settings.

    Example:
        >>> followed(BlockSkip(rule="interval"), Interval(every=2)).forecast
        False
    """
    return replace(settings, forecast=True) if isinstance(rule, ByMask) and rule.mask.forecast else settings
