"""A short search after binarisation: bits move at a fixed budget wherever the final latent comes nearer to the dense one.

Moves: two calls near each other change places; one block's run goes to the call before or after; one run is given up for another.
Candidates are judged by a :class:`Comparison`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .comparison import Comparison
from .costs import MARGIN, Costs
from .masked_model import MaskedModel
from .strategy import BinaryStrategy

_EASE = 1e-9
_REACH = 3
"""Calls that change places are at most so far apart."""
_STRIDE = 7919
"""A prime, so that pairs are taken from all over the run, and each in its turn."""


class LocalSearch(BinaryStrategy):
    """Training by the search alone: each pass tries some moves of the mask. It needs no gradients."""

    reads = BinaryStrategy.reads | {"tries"}
    needs_gradients = False

    def run_pass(self) -> float:
        """`tries` moves. Returns the mask's error on the held-out noises."""
        settings, rng = self.settings, np.random.default_rng([self.settings.seed, self.done])
        self.run, errors = local_search(
            self.model, self.run, self.scores(), settings.ceiling, settings.tries, self.comparison, rng,
            turn=self.done * settings.tries,
        )  # fmt: skip
        self.done += 1
        return errors[-1]


def local_search(
    model: MaskedModel,
    run: np.ndarray,
    scores: np.ndarray,
    target: float,
    tries: int,
    comparison: Comparison,
    rng: np.random.Generator,
    on_try: Callable[[int, float, np.ndarray], object] = lambda done, error, run: None,
    turn: int = 0,
) -> tuple[np.ndarray, list[float]]:
    """Search from a mask bool [T, L]. scores [T, L]: how much each run is worth, for choosing what to give up.

    turn: number of the first try, over the whole training. Returns the best mask, and its error on the held-out noises
    before the first try and after each. Never returns a mask that costs more than the target or the one given.
    """
    fits = budget(model.costs, run, target)
    comparison.keep(run)
    best, errors = run, [comparison.error]
    for done in range(1, tries + 1):
        candidate = propose(best, scores, rng, turn + done - 1)
        if not np.array_equal(candidate, best) and fits(candidate) and comparison.better(candidate):
            best = candidate
            comparison.keep(best)
        errors.append(comparison.error)
        on_try(done, errors[-1], best)
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
