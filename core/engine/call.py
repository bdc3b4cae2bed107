"""What a host says of one forward, and what is known of a run before it begins."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import Decline
from .clock import Stream


@dataclass(frozen=True)
class Call:
    """What a host says of one forward: its training timestep, its latent's size, and who its rows belong to.

    latent: (H, W) of a picture; other sizes (video, packed tokens) only tell one shape from another.
    last: the host says that this is the run's last step; for runs whose calls were not announced.
    input: what the rows denoise [rows, ...]; rows that are equal are one sample under several conds. Without it, the
        rows of each stream are taken to be the same samples in the same order.
    step: number of the sampler's step, where the host knows it. A rule decides once for all evaluations of a step.
    """

    timestep: float
    latent: tuple[int, ...]
    streams: tuple[Stream, ...]
    last: bool = False
    input: Tensor | None = field(default=None, compare=False, repr=False)
    step: int | None = None

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return sum(s.rows for s in self.streams)

    def keys(self, *more: Hashable) -> tuple[Hashable, ...]:
        """One key per stream: its cond, its rows, the latent's size, and what else matters."""
        return tuple((s.key, s.rows, self.latent, *more) for s in self.streams)


def raw_output(output: Any) -> Tensor | None:
    """The prediction in what a network returns: a tensor, a tuple that begins with one, or diffusers' output object."""
    first = output[0] if isinstance(output, tuple) and output else getattr(output, "sample", output)
    return first if isinstance(first, Tensor) else None


def one_timestep(value: Any) -> float:
    """A forward's timestep: a number, or a tensor with one entry or one per row. Waits for the device once.

    Raises :class:`Decline` for rows at different timesteps (stream batching), and for what is no timestep.
    """
    if isinstance(value, Tensor) and value.numel():
        spread = value.detach().flatten()
        entries = set(spread[:1].tolist() if not any(value.stride()) else spread.tolist())
        if len(entries) > 1:
            raise Decline("the rows of its batch are at different timesteps")
        return float(entries.pop())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise Decline("no timestep could be read from its arguments")
