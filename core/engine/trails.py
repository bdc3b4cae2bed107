"""Which evaluation of a noise level goes on from which one of the level before: tiles, context windows, Heun, PLMS.

A cond that is evaluated once at each level is one stream. Where it is evaluated several times, every evaluation follows a
latent of its own, so each is a stream of its own: it continues the one whose input it resembles most. One that resembles
none (shuffled tiles, windows that move, another picture's latent) is a new stream, which has nothing to reuse.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn.functional import cosine_similarity

from .call import Call
from .clock import Stream

_ALIKE = 0.5
"""Least cosine similarity of an input with the one that it continues, at the level before."""


@dataclass
class _Trail:
    """One latent on its way: the number it has among those of its cond, the call at which it was seen last, its input there."""

    number: int
    seen: int
    input: Tensor | None


class Trails:
    """The trails of one run. Waits for the device only where a cond is evaluated several times at one level."""

    def __init__(self) -> None:
        """Before the first call."""
        self._trails: dict[Hashable, list[_Trail]] = defaultdict(list)

    def resolve(self, call: Call, index: int) -> Call:
        """The forward with a stream for each trail. index: of its call. Ask once per forward, in order."""
        at, streams = 0, []
        for stream, key in zip(call.streams, call.keys(), strict=True):
            rows = None if call.input is None else call.input[at : at + stream.rows].detach()
            at += stream.rows
            number = self._number(key, rows, index)
            streams.append(Stream((stream.key, number), stream.rows) if number else stream)
        return replace(call, streams=tuple(streams))

    def lost(self, index: int) -> list[Hashable]:
        """Keys of the streams (:meth:`.call.Call.keys`) that were not seen since call `index`; they are forgotten here."""
        gone: list[Hashable] = []
        for key, trails in self._trails.items():
            gone += [_numbered(key, t.number) for t in trails if t.seen < index]
            self._trails[key] = [t for t in trails if t.seen >= index]
        return gone

    def clear(self) -> None:
        """Forget all."""
        self._trails.clear()

    def _number(self, key: Hashable, rows: Tensor | None, index: int) -> int:
        trails = self._trails[key]
        free = [t for t in trails if t.seen < index]
        trail = free[0] if len(trails) == 1 and free else _nearest(free, rows)
        if trail is None:
            trail = _Trail(1 + max((t.number for t in trails), default=-1), index, None)
            trails.append(trail)
        trail.seen, trail.input = index, None if rows is None else rows.clone()
        return trail.number


def _nearest(trails: list[_Trail], rows: Tensor | None) -> _Trail | None:
    """The trail whose last input is most like these rows; the first one where there is nothing to compare."""
    if not trails:
        return None
    if rows is None:
        return trails[0]
    found = [likeness(rows, t.input) for t in trails]
    best = max(range(len(trails)), key=found.__getitem__)
    return trails[best] if found[best] >= _ALIKE else None


def likeness(a: Tensor, b: Tensor | None) -> float:
    """Cosine similarity of two latents [rows, ...] in [-1, 1], of the rows that differ most; -1 for others in shape."""
    if b is None or a.shape != b.shape:
        return -1.0
    return float(cosine_similarity(a.detach().flatten(1).float(), b.detach().to(a.device).flatten(1).float()).min())


def alike(a: Tensor, b: Tensor) -> bool:
    """Can one latent follow the other in a run, as far as their contents tell?"""
    return likeness(a, b) >= _ALIKE


def _numbered(key: Hashable, number: int) -> Hashable:
    """The key that a stream has once its trail's number stands in it."""
    cond, *rest = key  # type: ignore[misc]
    return ((cond, number), *rest) if number else key
