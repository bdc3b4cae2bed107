"""Links each evaluation of a noise level to the one that it continues: tiles, context windows, Heun, PLMS.

A cond that is evaluated once per level is one stream. If it is evaluated several times, each evaluation follows its own
latent and is its own stream: it continues the one whose input is most similar. One that is similar to none (shuffled tiles,
moving windows, another picture) is a new stream without caches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn.functional import cosine_similarity

from .call import Call
from .clock import Stream

_ALIKE = 0.5
"""Lowest cosine similarity of an input with the one that it continues, at the level before."""


@dataclass
class _Trail:
    """The path of one latent through the noise levels.

    Args:
        number: its number among the trails of its cond.
        seen: last call at which it was evaluated.
        input: its input at that call [rows, ...].
    """

    number: int
    seen: int
    input: Tensor | None


class Trails:
    """The trails of one run. Waits for the device only if a cond is evaluated several times at one level.

    Example:
        >>> trails, call = Trails(), Call(999.0, (8, 8), (Stream("cond", 1),))
        >>> [trails.resolve(call, index=0).streams[0].key for _ in range(2)]  # two tiles of one noise level
        ['cond', ('cond', 1)]
    """

    def __init__(self) -> None:
        """Start before the first call."""
        self._trails: dict[Hashable, list[_Trail]] = defaultdict(list)

    def resolve(self, call: Call, index: int) -> Call:
        """Return the forward with one stream per trail. Call it once per forward, in order.

        Args:
            call: the forward.
            index: number of its call.
        """
        at, streams = 0, []
        for stream, key in zip(call.streams, call.keys(), strict=True):
            rows = None if call.input is None else call.input[at : at + stream.rows].detach()
            at += stream.rows
            number = self._number(key, rows, index)
            streams.append(Stream((stream.key, number), stream.rows) if number else stream)
        return replace(call, streams=tuple(streams))

    def lost(self, index: int) -> list[Hashable]:
        """Remove the streams not seen since call `index`, and return their keys (:meth:`.call.Call.keys`)."""
        gone: list[Hashable] = []
        for key, trails in self._trails.items():
            gone += [_numbered(key, t.number) for t in trails if t.seen < index]
            self._trails[key] = [t for t in trails if t.seen >= index]
        return gone

    def clear(self) -> None:
        """Remove all trails."""
        self._trails.clear()

    def _number(self, key: Hashable, rows: Tensor | None, index: int) -> int:
        trails = self._trails[key]
        free = [t for t in trails if t.seen < index]  # not continued at this call yet
        trail = free[0] if len(trails) == 1 and free else _nearest(free, rows)
        if trail is None:
            trail = _Trail(1 + max((t.number for t in trails), default=-1), index, None)
            trails.append(trail)
        trail.seen, trail.input = index, None if rows is None else rows.clone()
        return trail.number


def _nearest(trails: list[_Trail], rows: Tensor | None) -> _Trail | None:
    """Return the trail whose last input is most similar to these rows; the first one if there is nothing to compare."""
    if not trails:
        return None
    if rows is None:
        return trails[0]
    found = [likeness(rows, t.input) for t in trails]
    best = max(range(len(trails)), key=found.__getitem__)
    return trails[best] if found[best] >= _ALIKE else None


def likeness(a: Tensor, b: Tensor | None) -> float:
    """Return the cosine similarity of two latents in [-1, 1]: that of the least similar row.

    Args:
        a: a latent [rows, ...].
        b: another one; of another shape, or None, it has similarity -1.

    Example:
        >>> import torch
        >>> likeness(torch.eye(2), torch.eye(2)), likeness(torch.eye(2), torch.eye(3))
        (1.0, -1.0)
    """
    if b is None or a.shape != b.shape:
        return -1.0
    return float(cosine_similarity(a.detach().flatten(1).float(), b.detach().to(a.device).flatten(1).float()).min())


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether one latent can follow the other in a run, judged by their contents.

    Args:
        a: a latent [rows, ...].
        b: another one.

    Example:
        >>> import torch
        >>> alike(torch.eye(2), -torch.eye(2))
        False
    """
    return likeness(a, b) >= _ALIKE


def _numbered(key: Any, number: int) -> Hashable:
    """Return a stream's key with its trail's number in it."""
    cond, *rest = key
    return ((cond, number), *rest) if number else key
