"""The token side of a plan: at which calls pairs are searched anew, and which calls are served at all."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe.checkpoint_lists import checkpoint_calls
from ..recipe.token_merge import TokenMerge
from ..recipe.token_prune import TokenPrune
from .checkpoints import Checkpoints
from .run import Horizon

TokenSettings = TokenMerge | TokenPrune


class TokenPlan:
    """Checkpoints and window of one run."""

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
        """The run left its plan: from now on checkpoints are found by position."""
        self._planned = None

    def is_checkpoint(self, index: int, timestep: float) -> bool:
        """Must pairs be searched anew at this call? Ask once per call, in order."""
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
        """Is this call inside the window?"""
        return self._horizon.inside(self.settings, timestep)

    def share(self, shares: Sequence[float], index: int, timestep: float) -> float:
        """The entry of a list, one for each call of a full run, that holds at this call: by its place in a run of as many
        calls, else the nearest in position."""
        steps = self.checkpoints.timesteps or ()
        if self._planned is not None and len(steps) == len(shares) and self.positions.is_full(steps):
            return shares[index]
        return shares[round(self.positions.at(timestep) * (len(shares) - 1))]
