"""How much the network's raw output changes, position by position (DaTo, arXiv 2501.00375, DiffScore).

The score at a call is made of earlier calls only, so that it is the same whether cond and uncond come together or apart.
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
"""Outputs that differ by less than this share of their size are one evaluation handed out twice."""


@dataclass
class _Watched:
    """One stream: its last distinct output [rows, C, H, W], the call of it per row [rows], the change there [rows, H, W].

    sample [rows, K]: equal for rows of one sample, as of call `seen`.
    """

    sample: Tensor
    output: Tensor
    made: Tensor
    seen: int
    change: Tensor | None = None


@dataclass
class _Arrived:
    """The forwards of one call so far: their streams' keys, and which sample each row is of."""

    keys: list[Hashable] = field(default_factory=list)
    samples: list[Tensor] = field(default_factory=list)
    last: int = 0


class Dynamics:
    """Dynamics of all streams of a run.

    aligned: the streams of a sample share them: True for their mean, "first" for those of its first stream.
    """

    def __init__(self, aligned: Align = True) -> None:
        """Before the first output."""
        self._aligned = aligned
        self._streams: dict[Hashable, _Watched] = {}
        self._settled: dict[Hashable, Tensor] = {}
        self._arrived = _Arrived()

    def settle(self) -> None:
        """Tokens are about to be chosen anew: from now on :meth:`of` tells what the calls until here have shown."""
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
        """A forward begins; new: it is the first of its call."""
        if new:
            self._arrived = _Arrived()
        self._arrived.last = len(self._arrived.keys)
        at = 0
        for key, stream in zip(call.keys(), call.streams, strict=True):
            self._arrived.keys.append(key)
            self._arrived.samples.append(_sample(call, stream, at))
            at += stream.rows

    def of_forward(self) -> Tensor | None:
        """Mean |change| per call [rows, H, W] for the forward under way; None where no row of it has any.

        Rows of one sample take what the first of them to arrive at this call has.
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
        """Raw output [rows, C, H, W] of the forward under way, of call `index`."""
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
        """Drop streams that left the run."""
        for key in keys:
            self._streams.pop(key, None)
            self._settled.pop(key, None)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        held = [t for s in self._streams.values() for t in (s.sample, s.output, s.change) if t is not None]
        return sum(t.nbytes for t in (*held, *self._settled.values()))


def _sample(call: Call, stream: Stream, at: int) -> Tensor:
    """[rows, K]: the latents that a stream's rows denoise, or their places where the host does not give any."""
    if call.input is None:
        return torch.arange(stream.rows).unsqueeze(1)
    return call.input[at : at + stream.rows].detach().flatten(1).clone()


def _alike(samples: list[Tensor]) -> bool:
    """Can these be compared with each other at all?"""
    return bool(samples) and len({(s.shape[1], s.device) for s in samples}) == 1


def _means(changes: Tensor, first: Tensor) -> Tensor:
    """changes [n, h, w] -> the mean over the rows of each sample, in the place of its first row; first [n]: that row."""
    total = torch.zeros_like(changes).index_add_(0, first, changes)
    rows = changes.new_zeros(len(first)).index_add_(0, first, torch.ones_like(first, dtype=changes.dtype))
    return total / rows.clamp_min(1).view(-1, 1, 1)


def _equal(a: Tensor, b: Tensor) -> Tensor:
    """a [n, K], b [m, K] -> bool [n, m]: which rows are equal."""
    return torch.stack([(a == row).all(1) for row in b], 1)


def _update(stream: _Watched, index: int, rows: Tensor) -> None:
    """Take the change since the last distinct output, per call between; samples whose output repeats keep what they had."""
    difference = (rows - stream.output).abs()
    distinct = difference.mean((1, 2, 3)) > _REPEATED * rows.abs().mean((1, 2, 3))
    change = difference.mean(1) / (index - stream.made).clamp_min(1).view(-1, 1, 1)
    before = torch.zeros_like(change) if stream.change is None else stream.change
    stream.change = torch.where(distinct.view(-1, 1, 1), change, before)
    stream.output = torch.where(distinct.view(-1, 1, 1, 1), rows, stream.output)
    stream.made = torch.where(distinct, torch.full_like(stream.made, index), stream.made)
