"""What is known of a run ahead, and the position of each call.

*Position* is the common coordinate of all runs: 0 at the noisiest training timestep, 1 at the cleanest, linear in the
timestep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

_FULL_RUN_EDGE = 0.1


@dataclass(frozen=True)
class Positions:
    """Converts training timesteps to positions in [0, 1].

    Args:
        noisiest: timestep of position 0.
        cleanest: timestep of position 1.

    Example:
        >>> Positions(noisiest=1000.0).at(250.0)
        0.75
    """

    noisiest: float = 999.0
    cleanest: float = 0.0

    @classmethod
    def of_run(cls, timesteps: Sequence[float], train_steps: float = 1000.0) -> Positions:
        """Return the positions of a run whose calls are known.

        A run that starts within a tenth of the range from the noisy end starts at position 0, and one that ends near the
        clean end ends at 1. So spacing offsets do not shift a list. A run that starts in the middle (img2img) keeps its
        place.

        Args:
            timesteps: training timestep of each call, in order.
            train_steps: number of training timesteps.
        """
        top, slack = train_steps - 1, _FULL_RUN_EDGE * train_steps
        first, last = timesteps[0], timesteps[-1]
        noisiest = first if first >= top - slack and first > last else top
        cleanest = last if last <= slack and first > last else 0.0
        return cls(noisiest, cleanest)

    def at(self, timestep: float) -> float:
        """Return the position of a timestep, clipped to [0, 1]."""
        span = self.noisiest - self.cleanest
        return min(1.0, max(0.0, (self.noisiest - timestep) / span)) if span > 0 else 0.0

    def is_full(self, timesteps: Sequence[float]) -> bool:
        """Return whether these timesteps run from position 0 to position 1."""
        return self.at(timesteps[0]) == 0.0 and self.at(timesteps[-1]) == 1.0


class Window(Protocol):
    """Settings that apply to a part of the run (:mod:`skipstone.core.recipe.windows`)."""

    @property
    def start(self) -> float:
        """First position at which they apply."""

    @property
    def end(self) -> float:
        """Position from which they no longer apply."""


@dataclass(frozen=True)
class Horizon:
    """What is known of a run before it begins.

    Args:
        timesteps: training timestep of each call, in order; None when the calls are not known.
        train_steps: number of training timesteps.
        stages: calls per sampler step when the calls are known (2 for Heun and DPM2).
        steps: number of sampler steps, if the host knows it without the calls.
        stochastic: whether the sampler adds noise.
        distilled: whether the sampler is for distilled models, which need few steps (LCM, TCD).
        multistep: whether the sampler continues the outputs of earlier steps itself (DPM++ 2M, UniPC, LMS).
        levels: sigma / alpha at each step, and after the last one, of a sampler that goes from one to the next along the network's
            picture (Euler, DDIM), or along a line through the last two (DPM++ 2M); () of others, and where they are not known.
        slopes: how far each of these steps continues the last change of the picture (:func:`.step_lengths.slopes`); () where none
            does.

    Example:
        >>> run = Horizon((999.0, 749.0, 499.0, 249.0, 0.0))
        >>> round(run.positions.at(499.0), 2)
        0.5
        >>> Horizon().timesteps is None
        True
    """

    timesteps: tuple[float, ...] | None = None
    train_steps: float = 1000.0
    stages: int = 1
    steps: int | None = None
    stochastic: bool = False
    distilled: bool = False
    multistep: bool = False
    levels: tuple[float, ...] = ()
    slopes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Levels that are not one more than the calls are not known, nor are slopes that are not as many."""
        calls = len(self.timesteps or ())
        fitting = len(self.levels) == calls + 1 and len(self.slopes) in (0, calls)
        if self.stages > 1 or self.stochastic or not fitting:
            object.__setattr__(self, "levels", ())
            object.__setattr__(self, "slopes", ())

    @cached_property
    def positions(self) -> Positions:
        """Positions of the run's calls."""
        if self.timesteps:
            return Positions.of_run(self.timesteps, self.train_steps)
        return Positions(noisiest=self.train_steps - 1)

    def corrects(self, calls: int) -> bool:
        """Return whether forecasts of the noise are corrected by default: where the levels are known and at least half of the steps
        run. Over longer gaps too much of what a line missed is left to guess.

        Args:
            calls: how many steps run; 0 if that is not known ahead.

        Example:
            >>> run = Horizon((900.0, 600.0, 300.0), levels=(8.0, 2.0, 0.7, 0.0))
            >>> run.corrects(calls=2), run.corrects(calls=1)
            (True, False)
        """
        return bool(self.levels) and 2 * calls >= len(self.levels) - 1

    def inside(self, window: Window, timestep: float) -> bool:
        """Return whether a call lies in the window [start, end). An end of 1 includes the last call.

        Args:
            window: settings with `start` and `end`.
            timestep: training timestep of the call.
        """
        position = self.positions.at(timestep)
        return window.start <= position and (position < window.end or window.end >= 1.0)

    def steps_outside(self, window: Window) -> list[int]:
        """Return the numbers of the steps that do not begin in the window, if the calls are known.

        Args:
            window: settings with `start` and `end`.
        """
        known = (self.timesteps or ())[:: self.stages]
        return [step for step, timestep in enumerate(known) if not self.inside(window, timestep)]
