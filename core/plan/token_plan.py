"""The token side of a plan: at which calls pairs are searched, and which calls use token maps at all."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe.checkpoint_lists import checkpoint_calls
from ..recipe.token_merge import TokenMerge
from ..recipe.token_prune import TokenPrune
from .checkpoints import Checkpoints
from .run import Horizon

TokenSettings = TokenMerge | TokenPrune


class TokenPlan:
    """The checkpoints and the window of one run.

    Args:
        settings: merging or pruning settings.
        horizon: the calls of the run.

    Example:
        >>> plan = TokenPlan(TokenMerge(checkpoints=(0, 2), absolute=True), Horizon((999.0, 666.0, 333.0, 0.0)))
        >>> [plan.is_checkpoint(k, t) for k, t in enumerate((999.0, 666.0, 333.0, 0.0))]
        [True, False, True, False]
    """

    def __init__(self, settings: TokenSettings, horizon: Horizon) -> None:
        """Bind the settings to a run."""
        self.settings, self._horizon = settings, horizon
        self.positions, steps = horizon.positions, horizon.timesteps
        calls = tuple(
            c - settings.index_base for c in checkpoint_calls(settings.checkpoints) if c >= settings.index_base
        )
        self.checkpoints = Checkpoints(calls, absolute=settings.absolute, timesteps=steps, positions=self.positions)
        self._planned = self.checkpoints.planned() if steps else None
        self._every = settings.checkpoints == "every"
        self._before = 0.0

    def abandon(self) -> None:
        """Find checkpoints by position from now on, because the run left its announced calls."""
        self._planned = None

    def is_checkpoint(self, index: int, timestep: float) -> bool:
        """Return whether pairs are searched at this call. Call it once per call, in order.

        Args:
            index: number of the call, from 0.
            timestep: training timestep of the call.
        """
        now, before = self.positions.at(timestep), self._before
        self._before = now
        if index == 0 or self._every:
            return True
        if self._planned is not None:
            return index in self._planned
        if self.settings.absolute:
            return index in self.checkpoints.calls
        return self.checkpoints.crossed(before, now)

    def serves(self, timestep: float) -> bool:
        """Return whether this call lies in the window of the settings."""
        return self._horizon.inside(self.settings, timestep)

    def share(self, shares: Sequence[float], index: int, timestep: float) -> float:
        """Return the entry of a per-call list that applies to this call.

        Args:
            shares: one entry for each call of a full run.
            index: number of the call; it selects the entry in a full run of as many calls.
            timestep: training timestep; its position selects the entry in any other run.
        """
        steps = self.checkpoints.timesteps or ()
        if self._planned is not None and len(steps) == len(shares) and self.positions.is_full(steps):
            return shares[index]
        return shares[round(self.positions.at(timestep) * (len(shares) - 1))]
