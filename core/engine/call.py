"""One forward, as a host describes it to the engine."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import Decline
from ..forecast.space import Noise
from .clock import Stream


@dataclass(frozen=True)
class Call:
    """One forward, as a host describes it.

    Args:
        timestep: training timestep.
        latent: (H, W) of a picture latent. Other sizes (video, packed tokens) only separate one shape from another.
        streams: which cond each row of the batch belongs to, in order.
        last: the host knows that this is the last step. Used only when the calls are not known.
        input: what the rows denoise [rows, ...]; equal rows are one sample under several conds. Without it, the streams
            are taken to hold the same samples in the same order.
        step: number of the sampler step, if the host counts them. A rule decides once per step.
        noise: noise level of the input, and what the output predicts; None if the host does not know.
        packed: frames, rows and columns of a latent whose rows are tokens; None for other latents.
        compiled: whether the host compiles the network, so that nothing inside it can be reached.
        given: the latent as the network gets it, if that is not `input` itself: a list of its rows, for some networks.

    Example:
        >>> call = Call(999.0, (64, 64), (Stream("cond", 2), Stream("uncond", 2)))
        >>> call.rows
        4
    """

    timestep: float
    latent: tuple[int, ...]
    streams: tuple[Stream, ...]
    last: bool = False
    input: Tensor | None = field(default=None, compare=False, repr=False)
    step: int | None = None
    noise: Noise | None = None
    packed: tuple[int, int, int] | None = None
    compiled: bool = False
    given: Any = field(default=None, compare=False, repr=False)

    @cached_property
    def rows(self) -> int:
        """Number of rows of the batch."""
        return sum(s.rows for s in self.streams)

    def keys(self, *more: Hashable) -> tuple[tuple[Any, ...], ...]:
        """Return one key per stream: its cond, its rows, the latent's size, and `more`."""
        return tuple((*key, *more) for key in self._keys) if more else self._keys

    @cached_property
    def _keys(self) -> tuple[tuple[Any, ...], ...]:
        return tuple((s.key, s.rows, self.latent) for s in self.streams)


NO_CALL = Call(0.0, (0, 0), ())
"""Stands for the forward outside of any."""


def raw_output(output: Any) -> Tensor | None:
    """Return the prediction in a network's output: a tensor, the first of a tuple, or `sample` of diffusers' output object.

    A list of its rows (Z-Image) is stacked.

    Example:
        >>> import torch
        >>> raw_output((torch.zeros(1, 4, 8, 8),)).shape
        torch.Size([1, 4, 8, 8])
    """
    first = output[0] if isinstance(output, tuple) and output else getattr(output, "sample", output)
    if isinstance(first, list) and len({row.shape for row in first if isinstance(row, Tensor)}) == 1:
        return torch.stack(first)
    return first if isinstance(first, Tensor) else None


def one_timestep(value: Any) -> float:
    """Return a forward's timestep as a number. Waits for the device once.

    Args:
        value: a number, or a tensor with one entry or one per row.

    Raises :class:`Decline` if the rows have different timesteps (stream batching), or if it is no timestep.

    Example:
        >>> import torch
        >>> one_timestep(torch.tensor([500, 500]))
        500.0
    """
    if isinstance(value, Tensor) and value.numel():
        spread = value.detach().flatten()  # strides of 0 mean an expanded scalar: one entry is enough to read
        entries = set(spread[:1].tolist() if not any(value.stride()) else spread.tolist())
        if len(entries) > 1:
            raise Decline("the rows of its batch are at different timesteps")
        return float(entries.pop())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise Decline("no timestep could be read from its arguments")
