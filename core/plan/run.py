"""The calls of one run: what is known of them ahead, and where each lies between the noisiest and the cleanest timestep.

*Position* is the common coordinate of all runs: 0 at the noisiest training timestep, 1 at the cleanest, linear in the timestep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

_FULL_RUN_EDGE = 0.1


@dataclass(frozen=True)
class Positions:
    """Turns training timesteps into positions in [0, 1].

    Args:
        noisiest, cleanest: timesteps that count as positions 0 and 1.
    """

    noisiest: float = 999.0
    cleanest: float = 0.0

    @classmethod
    def of_run(cls, timesteps: Sequence[float], train_steps: float = 1000.0) -> Positions:
        """Positions for a planned run. A run that starts (ends) near the noisy (clean) end is taken to start (end) there,
        so that spacing offsets do not shift a list; one that starts in the middle (img2img) keeps its place."""
        top, slack = train_steps - 1, _FULL_RUN_EDGE * train_steps
        first, last = timesteps[0], timesteps[-1]
        noisiest = first if first >= top - slack and first > last else top
        cleanest = last if last <= slack and first > last else 0.0
        return cls(noisiest, cleanest)

    def at(self, timestep: float) -> float:
        """Position of a timestep, clipped to [0, 1]."""
        span = self.noisiest - self.cleanest
        return min(1.0, max(0.0, (self.noisiest - timestep) / span)) if span > 0 else 0.0

    def is_full(self, timesteps: Sequence[float]) -> bool:
        """True when these timesteps run from the noisiest to the cleanest position."""
        return self.at(timesteps[0]) == 0.0 and self.at(timesteps[-1]) == 1.0


class Window(Protocol):
    """Settings that hold for a part of the run (:mod:`skipstone.core.recipe.windows`)."""

    @property
    def start(self) -> float:
        """Position from which they hold."""

    @property
    def end(self) -> float:
        """Position before which they hold."""


@dataclass(frozen=True)
class Horizon:
    """What is known of a run before it begins.

    Args:
        timesteps: of its calls, in order; None where they are not known.
        train_steps: length of the training range.
        stages: calls that the sampler makes in each of its steps (2: Heun, DPM2), where the calls are known.

    Example::

        Horizon((999.0, 749.0, 499.0, 249.0, 0.0)).positions.at(499.0)  # about 0.5
    """

    timesteps: tuple[float, ...] | None = None
    train_steps: float = 1000.0
    stages: int = 1

    @cached_property
    def positions(self) -> Positions:
        """Where the run's calls lie."""
        if self.timesteps:
            return Positions.of_run(self.timesteps, self.train_steps)
        return Positions(noisiest=self.train_steps - 1)

    def inside(self, window: Window, timestep: float) -> bool:
        """Is a call inside the window [start, end)? An end of 1 includes the last call."""
        position = self.positions.at(timestep)
        return window.start <= position and (position < window.end or window.end >= 1.0)
