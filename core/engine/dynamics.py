"""How much the network's raw output changes at each position (DaTo, arXiv 2501.00375, DiffScore).

The score at a call depends on earlier calls only, so that it is the same whether cond and uncond run together or apart.
Rows that denoise the same latent are one sample under several conds. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..recipe.token_prune import Align
from .call import Call
from .clock import Stream

_REPEATED = 1e-4
"""Outputs that differ by less than this share of their size are the same evaluation, returned twice."""


@dataclass
class _Watched:
    """The last distinct output of one stream.

    Args:
        sample: [rows, K], equal for rows of one sample, as of call `seen`.
        output: [rows, C, H, W].
        made: [rows], the call of each row's output.
        seen: last call of the stream.
        change: [rows, H, W], mean absolute change per call.
    """

    sample: Tensor
    output: Tensor
    made: Tensor
    seen: int
    change: Tensor | None = None


@dataclass
class _Arrived:
    """The forwards of one call so far.

    Args:
        keys: keys of their streams.
        samples: per stream [rows, K], which sample each row belongs to.
        last: number of streams before the forward under way.
    """

    keys: list[Hashable] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    last: int = 0


class Dynamics:
    """The dynamics of all streams of a run.

    Args:
        aligned: whether the streams of a sample share their dynamics: True for their mean, "first" for those of the first.

    Example:
        >>> dynamics, call = Dynamics(), Call(999.0, (1, 1), (Stream("cond", 1),))
        >>> for index, value in enumerate((1.0, 3.0)):
        ...     dynamics.arrive(call, new=True)
        ...     dynamics.note(index, call, torch.full((1, 4, 1, 1), value))
        >>> dynamics.settle()
        >>> dynamics.of_forward()
        tensor([[[2.]]])
    """

    def __init__(self, aligned: Align = True) -> None:
        """Start before the first output."""
        self._aligned = aligned
        self._streams: dict[Hashable, _Watched] = {}
        self._settled: dict[Hashable, Tensor] = {}
        self._arrived = _Arrived()

    def settle(self) -> None:
        """Make the changes seen so far the answer of :meth:`of_forward`, before tokens are chosen."""
        last = max((s.seen for s in self._streams.values()), default=0)
        streams = {k: s for k, s in self._streams.items() if s.seen == last and s.change is not None}
        if not self._aligned or not _alike([s.sample for s in streams.values()]):
            self._settled = {k: s.change for k, s in streams.items() if s.change is not None}
            return
        changes = torch.cat([s.change for s in streams.values() if s.change is not None])
        samples = torch.cat([s.sample for s in streams.values()])
        first = _equal(samples, samples).to(changes).argmax(1)
        shared = (changes if self._aligned == "first" else _means(changes, first)).index_select(0, first)
        self._settled = dict(zip(streams, shared.split([len(s.sample) for s in streams.values()]), strict=True))

    def arrive(self, call: Call, new: bool) -> None:
        """Begin a forward.

        Args:
            call: its streams and input.
            new: whether it is the first of its call.
        """
        if new:
            self._arrived = _Arrived()
        self._arrived.last = len(self._arrived.keys)
        at = 0
        for key, stream in zip(call.keys(), call.streams, strict=True):
            self._arrived.keys.append(key)
            self._arrived.samples.append(_sample(call, stream, at))
            at += stream.rows

    def of_forward(self) -> Tensor | None:
        """Return the mean absolute change per call [rows, H, W] for this forward; None if none of its rows has any.

        All rows of a sample get the change of the sample's first row in this call.
        """
        arrived = self._arrived
        found = [self._settled.get(key) for key in arrived.keys]
        like = next((f for f in found if f is not None), None)
        if like is None:
            return None
        values = [
            like.new_zeros(len(s), *like.shape[1:]) if f is None else f
            for f, s in zip(found, arrived.samples, strict=True)
        ]
        own = torch.cat(values[arrived.last :])
        if not self._aligned or not _alike(arrived.samples):
            return own
        same = _equal(torch.cat(arrived.samples[arrived.last :]), torch.cat(arrived.samples))
        return torch.cat(values).index_select(0, same.to(like).argmax(1))

    def note(self, index: int, call: Call, output: Tensor) -> None:
        """Register the raw output of this forward.

        Args:
            index: number of the call.
            call: its streams.
            output: [rows, C, H, W].
        """
        at = 0
        keys, samples = self._arrived.keys[self._arrived.last :], self._arrived.samples[self._arrived.last :]
        for key, sample, stream in zip(keys, samples, call.streams, strict=True):
            rows = output[at : at + stream.rows].detach().to(torch.float32, copy=True)
            at += stream.rows
            watched = self._streams.get(key)
            if watched is None or watched.output.device != rows.device:
                made = torch.full((len(rows),), float(index), device=rows.device)
                self._streams[key] = _Watched(sample, rows, made, index)
            else:
                watched.sample, watched.seen = sample, index
                _update(watched, index, rows)

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the streams that left the run."""
        for key in keys:
            self._streams.pop(key, None)
            self._settled.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = [t for s in self._streams.values() for t in (s.sample, s.output, s.change) if t is not None]
        return sum(t.nbytes for t in (*held, *self._settled.values()))


def _sample(call: Call, stream: Stream, at: int) -> Tensor:
    """Return [rows, K], the latents of a stream's rows, or their row numbers if the host gives no input."""
    if call.input is None:
        return torch.arange(stream.rows).unsqueeze(1)
    return call.input[at : at + stream.rows].detach().flatten(1).clone()


def _alike(samples: list[Tensor]) -> bool:
    """Return whether these samples can be compared at all."""
    return bool(samples) and len({(s.shape[1], s.device) for s in samples}) == 1


def _means(changes: Tensor, first: Tensor) -> Tensor:
    """Average over the rows of each sample.

    Args:
        changes: [n, h, w].
        first: [n], the first row of each row's sample.

    Returns:
        [n, h, w], each mean in the place of its sample's first row.
    """
    total = torch.zeros_like(changes).index_add_(0, first, changes)
    rows = changes.new_zeros(len(first)).index_add_(0, first, torch.ones_like(first, dtype=changes.dtype))
    return total / rows.clamp_min(1).view(-1, 1, 1)


def _equal(a: Tensor, b: Tensor) -> Tensor:
    """Return bool [n, m]: which rows of a [n, K] and b [m, K] are equal."""
    return torch.stack([(a == row).all(1) for row in b], 1)


def _update(stream: _Watched, index: int, rows: Tensor) -> None:
    """Register the change per call since the last distinct output; a sample whose output repeats keeps its change."""
    difference = (rows - stream.output).abs()
    distinct = difference.mean((1, 2, 3)) > _REPEATED * rows.abs().mean((1, 2, 3))
    change = difference.mean(1) / (index - stream.made).clamp_min(1).view(-1, 1, 1)
    before = torch.zeros_like(change) if stream.change is None else stream.change
    stream.change = torch.where(distinct.view(-1, 1, 1), change, before)
    stream.output = torch.where(distinct.view(-1, 1, 1, 1), rows, stream.output)
    stream.made = torch.where(distinct, torch.full_like(stream.made, index), stream.made)
