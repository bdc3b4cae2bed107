"""The token side of a plan: at which calls pairs are searched anew, and which calls are served at all."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipe.checkpoint_lists import checkpoint_calls
from ..recipe.token_merge import TokenMerge
from ..recipe.token_prune import TokenPrune
from .checkpoints import Checkpoints
from .run import Positions

TokenSettings = TokenMerge | TokenPrune


class TokenPlan:
    """Checkpoints and window of one run. `timesteps`: its calls in order, None where they are not known ahead."""

    def __init__(self, settings: TokenSettings, timesteps: Sequence[float] | None, train_steps: float = 1000.0) -> None:
        """Bind the settings to a run."""
        self.settings = settings
        steps = tuple(timesteps) if timesteps is not None and len(timesteps) else None
        self.positions = Positions.of_run(steps, train_steps) if steps else Positions(noisiest=train_steps - 1)
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
        """Is this call inside the window [start, end) (end 1 includes the last call)?"""
        position = self.positions.at(timestep)
        return self.settings.start <= position and (position < self.settings.end or self.settings.end >= 1.0)

    def share(self, shares: Sequence[float], index: int, timestep: float) -> float:
        """The entry of a list, one for each call of a full run, that holds at this call: by its place in a run of as many
        calls, else the nearest in position."""
        steps = self.checkpoints.timesteps or ()
        if self._planned is not None and len(steps) == len(shares) and self.positions.is_full(steps):
            return shares[index]
        return shares[round(self.positions.at(timestep) * (len(shares) - 1))]
