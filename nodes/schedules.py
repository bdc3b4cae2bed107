"""Whether a schedule skips anything in the coming run."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..core.models import recognise
from ..core.plan.block_plan import graph_of, rule_mask
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.recipe import Method


def skips_nothing(method: Method, network: nn.Module, timesteps: Sequence[float] | None) -> str:
    """Why block skipping would run every block in a run; empty if it skips, for other methods, and for unknown timesteps.

    Args:
        method: settings of any method.
        network: the model's network.
        timesteps: of the run's calls; None if they are not known.
    """
    if not isinstance(method, BlockSkip) or not timesteps:
        return ""
    family = recognise(network)
    mask = rule_mask(method, graph_of(method, family, network), family.name, tuple(timesteps))
    if not mask.run.all():
        return ""
    return f"the schedule runs every block at each of {len(timesteps)} calls: use more steps or skip more"
