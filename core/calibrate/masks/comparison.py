"""Masks compared by the figure that is reported: the mean relative L2 error of the final latents.

A move is accepted on some noises and must hold on others, so that no mask is fitted to the noises it was found on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ...measure.fidelity import relative_errors
from .gated import Caches, CallGates
from .masked_model import MaskedModel, Place, running
from .shards import Shards

ROOM = 1 << 30
"""Bytes that the places of all samples may take; fewer places are held on larger models."""
_PARTS, _PARTED_FROM = 4, 8
"""Parts in which samples are drawn, and their least number for that."""

_SURVIVORS = (16, 12, 8, 6, 4, 3, 3, 1)
"""Masks that are left of many after each part of the noises."""


class Comparison:
    """A kept mask and its errors, against which candidates are judged.

    The result is the same for every number of processes that divides a quarter of the samples.

    Args:
        model: to compare masks on.
        finding: this process's seeds on which moves are found.
        held_out: this process's seeds on which a move must hold; none of the others.
        shards: this process's part.

    Example:
        >>> comparison = Comparison(model, finding=[0, 1], held_out=[2, 3], shards=Shards())
        >>> comparison.keep(np.array([[True] * 4, [False] * 4, [False] * 4, [False] * 4]))
        >>> comparison.better(np.array([[True] * 4, [False] * 4, [True] * 4, [False] * 4]))
        True
    """

    def __init__(self, model: MaskedModel, finding: Sequence[int], held_out: Sequence[int], shards: Shards) -> None:
        """Prepare; samples are drawn on first use."""
        self._model, self._shards = model, shards
        self._seeds = (list(finding), list(held_out))
        self._run: np.ndarray | None = None
        self._errors: tuple[list[Tensor], Tensor] = ([], torch.zeros(0))

    @cached_property
    def _finding(self) -> list[Noises]:
        return self._parts(self._seeds[0])

    @cached_property
    def _held_out(self) -> list[Noises]:
        return self._parts(self._seeds[1])

    def _parts(self, seeds: list[int]) -> list[Noises]:
        whole = len(seeds) * self._shards.count < _PARTED_FROM or len(seeds) % _PARTS
        parts = [seeds] if whole else [part.tolist() for part in np.array_split(np.array(seeds), _PARTS)]
        return [Noises(self._model, part, ROOM // (2 * len(parts))) for part in parts]

    def keep(self, run: np.ndarray) -> None:
        """Judge later candidates against this mask bool [T, L]."""
        if self._run is not None and np.array_equal(run, self._run):
            return
        finding = [noises.errors(run, keep=True) for noises in self._finding]
        self._errors = (finding, torch.cat([noises.errors(run, keep=True) for noises in self._held_out]))
        self._run = run

    @property
    def error(self) -> float:
        """The kept mask's error on the held-out noises."""
        return self._mean(self._errors[1])

    def held_out(self, run: np.ndarray) -> float:
        """The error of a mask bool [T, L] on the held-out noises."""
        return self._mean(torch.cat([noises.errors(run) for noises in self._held_out]))

    def best_of(self, runs: Sequence[np.ndarray]) -> np.ndarray:
        """The mask bool [T, L] with the lowest mean error over all noises, those held out among them.

        Masks drop out on the way: more noises are drawn for the better ones alone.
        """
        left, errors = list(runs), [[] for _ in runs]  # type: list[np.ndarray], list[list[Tensor]]
        for noises, survivors in zip([*self._finding, *self._held_out], _SURVIVORS, strict=False):
            errors = [[*known, noises.errors(run)] for run, known in zip(left, errors, strict=True)]
            order = np.argsort([self._mean(torch.cat(known)) for known in errors], kind="stable")[:survivors]
            left, errors = [left[i] for i in order], [errors[i] for i in order]
        return left[0]

    def better(self, run: np.ndarray) -> bool:
        """Return whether a mask bool [T, L] has a lower error than the kept one, also on the held-out noises.

        There the gain must be larger than its standard error. Now and then a noise turns into another picture, with an error
        larger than all others together: if only such a one turns back and the others do not gain, the mask is refused. A mask
        that is behind on the first quarter of the noises is not drawn further.
        """
        finding, held_out = self._errors
        first, *others = self._finding
        gains = [finding[0] - first.errors(run)]
        if not self._mean(gains[0]) > 0:
            return False
        gains += [kept - noises.errors(run) for kept, noises in zip(finding[1:], others, strict=True)]
        if not self._mean(torch.cat(gains)) > 0:
            return False
        return self._surely(held_out - torch.cat([noises.errors(run) for noises in self._held_out]))

    def _surely(self, gains: Tensor) -> bool:
        """Whether the mean over all processes' samples is larger than its standard error."""
        mean, square = self._shards.mean(torch.stack([gains.mean(), gains.square().mean()])).tolist()
        count = len(gains) * self._shards.count
        return mean > (max(0.0, square - mean**2) / max(1, count - 1)) ** 0.5

    def _mean(self, errors: Tensor) -> float:
        return float(self._shards.mean(errors.mean()))


class Noises:
    """Some samples and their dense results.

    The kept mask's run is stored at some of its calls, so that similar masks branch off there.

    Args:
        model: to run masks on.
        seeds: of the samples.
        room: bytes that stored places may take.

    Example:
        >>> noises = Noises(model, [0, 1])
        >>> noises.errors(np.ones(model.shape, dtype=bool)).tolist()
        [0.0, 0.0]
    """

    def __init__(self, model: MaskedModel, seeds: Sequence[int], room: int = ROOM) -> None:
        """Draw the samples dense."""
        self._model, self._seeds, self._room = model, seeds, room
        self._goal = model.rollout(seeds)
        self._run: np.ndarray | None = None
        self._places: dict[int, Place] = {}

    @torch.no_grad()
    def errors(self, run: np.ndarray, keep: bool = False) -> Tensor:
        """Relative L2 error [n] of each sample under a mask.

        Args:
            run: mask bool [T, L].
            keep: store places of this run, for later masks to branch off.
        """
        common = self._common(run)
        places = {call: place for call, place in self._places.items() if call <= common}
        first = max(places, default=0)
        at, caches = places.get(first) or Place(self._model.denoiser.begin(self._seeds))
        rows = running(run, self._model.graph)
        at = self._model.denoiser.fork(at)
        for call in range(first, self._model.calls):
            if keep:
                places[call] = Place(self._model.denoiser.fork(at), caches)
                places = _thinned(places, self._room)
            outcome = self._model.masked(at, call, CallGates(rows[call]), caches)
            at, caches = self._model.denoiser.advance(at, outcome.output, call), outcome.caches
        if keep:
            self._run, self._places = run, places
        return relative_errors(at.x, self._goal)

    def _common(self, run: np.ndarray) -> int:
        """The first call whose evaluated blocks differ from those of the run that is kept."""
        if self._run is None:
            return 0
        graph = self._model.graph
        differing = (running(run, graph) != running(self._run, graph)).any(axis=1)
        return int(differing.argmax()) if differing.any() else len(run) - 1


def _thinned(places: dict[int, Place], room: int) -> dict[int, Place]:
    """Places at fewer calls, evenly spread, until their caches take no more than `room` bytes."""
    while len(places) > 1 and held_bytes([caches for _, caches in places.values()]) > room:
        places = {call: places[call] for call in sorted(places)[::2]}
    return places


def held_bytes(caches: Sequence[Caches | None]) -> int:
    """Bytes of the values that caches hold, each counted once.

    Example:
        >>> outcome = model.dense(model.denoiser.begin([0]), 0)
        >>> held_bytes([outcome.caches, outcome.caches]), held_bytes([None])  # 4 blocks x 6 numbers x 8 bytes
        (192, 0)
    """
    tensors = (t for one in caches if one is not None for held in one for t in held.tensors())
    return sum({t.data_ptr(): t.nbytes for t in tensors}.values())
