"""A short search after binarisation: bits move at a fixed budget wherever the final latent comes nearer to the dense one.

Moves: two calls near each other change places; one block's run goes to the call before or after; one run is given up for another.
A candidate is judged by its final error on a few fixed noises, from the first call on that it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...denoiser import Trajectory
from .costs import MARGIN, Costs
from .gated import Caches, Row
from .losses import log_loss
from .shards import Shards
from .subject import Subject, running

Place = tuple[Trajectory, Caches | None]
"""Where a run stands before a call."""

ROOM = 1 << 30
"""Bytes that the places of some samples may take; fewer are held on larger models."""
_EASE = 1e-9
_REACH = 3
"""Calls that change places are at most so far apart."""
_STRIDE = 7919
"""A prime, so that pairs are taken from all over the run, and each in its turn."""
_HEATS, _RACE_FROM = 4, 8
"""Parts in which samples are drawn, and their least number for that."""


class Rehearsal:
    """Final errors of masks on fixed samples, a quarter of them at a time; the first decides whether a candidate is worth
    the others.

    The same for every number of processes that divides that quarter.
    """

    def __init__(self, subject: Subject, seeds: Sequence[int], shards: Shards) -> None:
        """seeds: this process's samples. Draws them dense."""
        whole = len(seeds) * shards.count < _RACE_FROM or len(seeds) % _HEATS
        parts = [list(seeds)] if whole else np.array_split(np.array(seeds), _HEATS)
        self._heats = [Heat(subject, [int(seed) for seed in part], ROOM // len(parts)) for part in parts]
        self._shards = shards
        self._first = np.inf  # logarithm of the kept mask's error on the first quarter

    def error(self, run: np.ndarray, keep: bool = False) -> float:
        """Relative squared error of the final latents under a mask bool [T, L], the geometric mean over the samples.

        keep: later masks may branch off here.
        """
        errors = [self._shared(heat.error(run, keep)) for heat in self._heats]
        if keep:
            self._first = errors[0]
        return float(np.exp(np.mean(errors)))

    def raced(self, run: np.ndarray) -> float:
        """The same; infinite for a mask that is behind the kept one on the first quarter."""
        first = self._shared(self._heats[0].error(run))
        if first >= self._first:
            return np.inf
        return float(np.exp(np.mean([first, *(self._shared(heat.error(run)) for heat in self._heats[1:])])))

    def _shared(self, error: Tensor) -> float:
        return float(self._shards.mean(error))


class Heat:
    """Some of the samples. The kept mask's run is held at some of its calls, so that others branch off where they differ."""

    def __init__(self, subject: Subject, seeds: Sequence[int], room: int = ROOM) -> None:
        """Draws the samples dense. room: bytes that held places may take."""
        self._subject, self._seeds, self._room = subject, seeds, room
        self._goal = subject.rollout(seeds)
        self._run: np.ndarray | None = None
        self._places: dict[int, Place] = {}

    @torch.no_grad()
    def error(self, run: np.ndarray, keep: bool = False) -> Tensor:
        """Mean logarithm of these samples' relative squared errors."""
        common = self._common(run)
        places = {call: place for call, place in self._places.items() if call <= common}
        first = max(places, default=0)
        at, caches = places.get(first) or (self._subject.denoiser.begin(self._seeds), None)
        rows = running(run, self._subject.graph)
        at = self._subject.denoiser.fork(at)
        for call in range(first, self._subject.calls):
            if keep:
                places[call] = (self._subject.denoiser.fork(at), caches)
                places = thinned(places, self._room)
            outcome = self._subject.masked(at, call, Row(rows[call]), caches)
            at, caches = self._subject.denoiser.advance(at, outcome.output, call), outcome.caches
        if keep:
            self._run, self._places = run, places
        return log_loss(at.x, self._goal)

    def _common(self, run: np.ndarray) -> int:
        """The first call whose evaluated blocks differ from those of the run that is kept."""
        if self._run is None:
            return 0
        graph = self._subject.graph
        differing = (running(run, graph) != running(self._run, graph)).any(axis=1)
        return int(differing.argmax()) if differing.any() else len(run) - 1


def thinned(places: dict[int, Place], room: int) -> dict[int, Place]:
    """Places at fewer calls, evenly spread, until their caches take no more than `room` bytes."""
    while len(places) > 1 and held_bytes([caches for _, caches in places.values()]) > room:
        places = {call: places[call] for call in sorted(places)[::2]}
    return places


def held_bytes(caches: Sequence[Caches | None]) -> int:
    """Memory of the values that are held, each counted once."""
    helds = [held for one in caches if one is not None for held in one]
    values = [v for held in helds for h in (held, held.before) if h is not None for v in h.values if v is not None]
    return sum({v.data_ptr(): v.nbytes for v in values}.values())


def refine(
    subject: Subject,
    run: np.ndarray,
    scores: np.ndarray,
    target: float,
    tries: int,
    rehearsal: Rehearsal,
    rng: np.random.Generator,
    tell: Callable[[int, float, np.ndarray], object] = lambda done, error, run: None,
    turn: int = 0,
) -> tuple[np.ndarray, list[float]]:
    """Search from a mask bool [T, L]. scores [T, L]: how much each run is worth, for choosing what to give up.

    turn: number of the first try, over the whole training. Returns the best mask and the error of the best after each try.
    Ends early, with what it has, where `tell` raises KeyboardInterrupt. Never returns a mask that costs more than the target
    or the one given.
    """
    fits = budget(subject.costs, run, target)
    best, errors = run, [rehearsal.error(run, keep=True)]
    for done in range(1, tries + 1):
        candidate = propose(best, scores, rng, turn + done - 1)
        error = np.inf
        if not np.array_equal(candidate, best) and fits(candidate):
            error = rehearsal.raced(candidate)
        if error < errors[-1]:
            best = candidate
            rehearsal.error(best, keep=True)
        errors.append(min(error, errors[-1]))
        tell(done, errors[-1], best)
    return best, errors


def budget(costs: Costs, run: np.ndarray, target: float) -> Callable[[np.ndarray], bool]:
    """Whether a mask keeps to the target, or to what `run` needs where that is more, and does not leave it unused."""
    share = costs.share(run)
    low, high = min(share, target - MARGIN), max(share, target)
    return lambda candidate: low - _EASE <= costs.share(candidate) <= high + _EASE


def propose(run: np.ndarray, scores: np.ndarray, rng: np.random.Generator, turn: int) -> np.ndarray:
    """One move away from a mask; the first call stays full. The number of runs stays.

    At even turns two calls change places, pair after pair: which calls run whole matters most. At odd ones a single run moves.
    """
    if turn % 2 == 0:
        return _change_places(run.copy(), turn // 2)
    move = _MOVES[rng.integers(len(_MOVES))]
    return move(run.copy(), scores, rng)


def _change_places(run: np.ndarray, number: int) -> np.ndarray:
    """Two calls near each other take each other's rows. number: which of the pairs whose rows differ, in a fixed order."""
    calls = range(1, len(run))
    pairs = [(a, b) for a in calls for b in calls if 0 < b - a <= _REACH and not np.array_equal(run[a], run[b])]
    if pairs:
        a, b = pairs[number * _STRIDE % len(pairs)]
        run[[a, b]] = run[[b, a]]
    return run


def _shift(run: np.ndarray, scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One run goes to the neighbouring call at which its block does not run."""
    free = [(s, i, t) for s, i in _places(run) for t in (s - 1, s + 1) if 0 < t < len(run) and not run[t, i]]
    if free:
        s, i, t = free[rng.integers(len(free))]
        run[s, i], run[t, i] = False, True
    return run


def _give_up(run: np.ndarray, scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One run of little worth for another that is worth more."""
    runs, idle = _places(run), _places(~run)
    if len(runs) and len(idle):
        off, on = _drawn(runs, -scores[tuple(runs.T)], rng), _drawn(idle, scores[tuple(idle.T)], rng)
        run[tuple(off)], run[tuple(on)] = False, True
    return run


def _places(entries: np.ndarray) -> np.ndarray:
    """(call, block) of the entries that are set, from call 1 on."""
    return np.argwhere(entries[1:]) + np.array([1, 0])


def _drawn(places: np.ndarray, worth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the places, the likelier the higher its rank by worth; equals take their ranks by chance."""
    rank = np.lexsort((rng.random(len(worth)), -worth)).argsort()
    weight = np.exp(-4.0 * rank / len(rank))
    return places[rng.choice(len(places), p=weight / weight.sum())]


_MOVES = (_shift, _give_up)
