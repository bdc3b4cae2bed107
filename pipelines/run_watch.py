"""Where one run ends and the next begins, on models and pipelines that do not say so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..core.engine.trails import alike
from .streams import Labels

_MOST_AT_ONCE = 32
"""Forwards at a bare model's first timestep before they are taken for pictures of one step each."""
_LEAP = 1.5
"""A bare model's timesteps may fall by this much more than ever before in the run; a larger leap begins another one."""


class Found(Protocol):
    """A timestep in a schedule: its value in training timesteps, its place, and an object of its own for each run.

    watched: the end of that run will be noticed.
    """

    value: float
    place: int
    token: object
    watched: bool


class Schedule(Protocol):
    """Where a pipeline's calls can be read from (:class:`skipstone.pipelines.schedule.PipelineSchedule`)."""

    @property
    def train_steps(self) -> float:
        """Number of training timesteps."""

    def find(self, timestep: Any, scale: float) -> Found | None:
        """The schedule's entry that a forward's timestep is; None where it is of no run of this pipeline."""

    def calls_from(self, found: Any) -> tuple[list[float], int]:
        """Timesteps of the calls to come from this one on, and how many of them make a step of the sampler."""


@dataclass(frozen=True)
class Seen:
    """One forward: its training timestep, its latent and that one's size, and the run of the pipeline that it belongs to."""

    timestep: float
    input: Tensor
    latent: tuple[int, ...]
    found: Found | None = None

    @property
    def token(self) -> object:
        """What tells one run of a pipeline from the next."""
        return self.found.token if self.found else None


@dataclass
class RunWatch:
    """What is known of one thread's run: who its rows are, its last forward, the sizes at its first timestep.

    gap: the largest step in timesteps so far. begun: the latents at its first timestep, until the next one. by_hand: the run
    was begun by :meth:`.accelerate.Handle.begin`, and ends by its `end` alone.
    """

    labels: Labels
    first: Seen | None = None
    last: Seen | None = None
    gap: float = 0.0
    begun: list[Tensor] = field(default_factory=list)
    sizes: set[tuple[int, ...]] = field(default_factory=set)
    by_hand: bool = False

    def begins_another(self, now: Seen) -> bool:
        """Does this forward belong to another run than the one before?

        Of one run are a pipeline's timesteps in their order, else timesteps that fall, or repeat; where intermediate evaluations
        and rounding meet (KDPM2) they rise by less than a thousandth. Without a pipeline, a leap, a second call on an unlike
        latent, or a size that the run did not begin with begins another.
        """
        if self.first is None or self.last is None or now.token is not self.last.token:
            return True
        if now.found is not None and self.last.found is not None:
            return now.found.place < self.last.found.place
        if now.timestep > self.last.timestep * 1.001:
            return True
        if now.timestep == self.first.timestep:
            return len(self.begun) >= _MOST_AT_ONCE
        if self.gap > 0:
            return self.last.timestep - now.timestep > _LEAP * self.gap or now.latent not in self.sizes
        return not any(alike(now.input, x) for x in self.begun)

    def note(self, now: Seen) -> None:
        """A forward of the run."""
        self.first = self.first or now
        if now.timestep == self.first.timestep:
            self.begun.append(now.input.detach().clone())
            self.sizes.add(now.latent)
        elif self.last is not None:
            self.begun = []
            self.gap = max(self.gap, self.last.timestep - now.timestep)
        self.last = now
