"""Finds where one run ends and the next begins, on models and pipelines that do not announce it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..core.engine.trails import alike
from .schedule import ScheduledCall
from .streams import Labels

_MOST_AT_ONCE = 32
"""Forwards at a bare model's first timestep before they are taken for pictures of one step each."""
_LEAP = 1.5
"""A bare model's timesteps may fall by up to this factor times the largest step so far; a larger step begins a new run."""


@dataclass(frozen=True)
class Seen:
    """One forward.

    Args:
        timestep: training timestep.
        input: the latent [B, C, ...], or [B, N, C] if packed.
        found: the pipeline's call that it is; None for a forward outside a pipeline's run.

    Example:
        >>> import torch
        >>> seen = Seen(999.0, torch.zeros(1, 4, 8, 8))
        >>> seen.latent, seen.token
        ((8, 8), None)
    """

    timestep: float
    input: Tensor
    found: ScheduledCall | None = None

    @property
    def latent(self) -> tuple[int, ...]:
        """The size of the latent, or the number of tokens of a packed one."""
        return tuple(self.input.shape[2:]) if self.input.ndim > 3 else (self.input.shape[1],)

    @property
    def token(self) -> object:
        """An object that identifies the pipeline's run; None outside one."""
        return self.found.token if self.found else None


@dataclass
class RunWatch:
    """What is known of one thread's run.

    Args:
        labels: assigns its rows to streams.
        first: its first forward.
        last: its last forward.
        gap: the largest step in timesteps so far.
        begun: latents at its first timestep; emptied at the next timestep.
        sizes: sizes of the latents at its first timestep.
        by_hand: whether :meth:`.accelerate.Handle.begin` began it; only `end` ends such a run.

    Example:
        >>> import torch
        >>> watch, latent = RunWatch(Labels()), torch.ones(1, 4, 8, 8)
        >>> watch.note(Seen(999.0, latent))
        >>> watch.begins_another(Seen(500.0, latent)), watch.begins_another(Seen(1000.5, latent))
        (False, True)
    """

    labels: Labels
    first: Seen | None = None
    last: Seen | None = None
    gap: float = 0.0
    begun: list[Tensor] = field(default_factory=list)
    sizes: set[tuple[int, ...]] = field(default_factory=set)
    by_hand: bool = False

    def begins_another(self, now: Seen) -> bool:
        """Return whether this forward starts a new run.

        In a pipeline, a run follows the order of the schedule. Elsewhere its timesteps fall or repeat; they may rise by less
        than a thousandth, where intermediate evaluations meet rounding (KDPM2). Outside a pipeline a new run also starts with a
        large step in timesteps, with a second call on a dissimilar latent, and with a size that the run did not begin with.
        """
        if self.first is None or self.last is None or now.token is not self.last.token:
            return True
        if now.found is not None and self.last.found is not None:
            return now.found.place < self.last.found.place
        # Without a schedule: time that went back, many pictures at the first timestep, or an unlike continuation.
        if now.timestep > self.last.timestep * 1.001:
            return True
        if now.timestep == self.first.timestep:
            return len(self.begun) >= _MOST_AT_ONCE
        if self.gap > 0:
            return self.last.timestep - now.timestep > _LEAP * self.gap or now.latent not in self.sizes
        return not any(alike(now.input, x) for x in self.begun)

    def note(self, now: Seen) -> None:
        """Register a forward of the run."""
        self.first = self.first or now
        if now.timestep == self.first.timestep:
            self.begun.append(now.input.detach().clone())
            self.sizes.add(now.latent)
        elif self.last is not None:
            self.begun = []
            self.gap = max(self.gap, self.last.timestep - now.timestep)
        self.last = now
