"""A search by small moves: runs move at a fixed budget wherever the final latent comes nearer to the dense one.

Moves: two calls near each other change places; a block's run moves to the call before or after; a run is given up for another.
A :class:`Comparison` judges the candidates.
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
    """Training by this search alone: each pass tries some moves of the mask. It needs no gradients.

    Args:
        model: to train on.
        settings: of the training.
        shards: this process's part.

    Example:
        >>> from skipstone.core.calibrate.masks.settings import TrainSettings
        >>> from skipstone.core.calibrate.masks.shards import Shards
        >>> search = LocalSearch(model, TrainSettings(target=0.5, tries=4, refine_batch=2), Shards())
        >>> before = search.comparison.held_out(search.run)
        >>> search.run_pass() <= before
        True
    """

    reads = BinaryStrategy.reads | {"tries"}
    needs_gradients = False

    def run_pass(self) -> float:
        """Try `tries` moves. Returns the mask's error on the held-out noises."""
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
    """Search from a mask. The result never costs more than the target or, if that is more, than the given mask.

    Args:
        model: to search on.
        run: mask bool [T, L].
        scores: worth of each run, [T, L], for choosing what to give up.
        target: share of the multiply-adds.
        tries: number of moves.
        comparison: judges moves.
        rng: chooses moves.
        on_try: called after each move with its number, the error and the best mask.
        turn: number of the first move, over the whole training.

    Returns the best mask, and its error on the held-out noises before the first move and after each.

    Example:
        >>> from skipstone.core.calibrate.masks.shards import Shards
        >>> run = np.array([[True] * 4, [True] * 4, [False] * 4, [False] * 4])
        >>> comparison = Comparison(model, [0, 1], [2, 3], Shards())
        >>> best, errors = local_search(model, run, run * 1.0, 0.5, 3, comparison, np.random.default_rng(0))
        >>> int(best.sum()), len(errors), errors[-1] <= errors[0]
        (8, 4, True)
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
    """Return a check whether a mask keeps to a budget and uses it.

    Args:
        costs: of the blocks.
        run: the present mask bool [T, L]; if it needs more than the target, others may need as much.
        target: share of the multiply-adds.

    Example:
        >>> fits = budget(model.costs, np.array([[True] * 4, [True] * 4, [False] * 4, [False] * 4]), target=0.5)
        >>> fits(np.ones(model.shape, dtype=bool))
        False
    """
    share = costs.share(run)
    low, high = min(share, target - MARGIN), max(share, target)
    return lambda candidate: low - _EASE <= costs.share(candidate) <= high + _EASE


def propose(run: np.ndarray, scores: np.ndarray, rng: np.random.Generator, turn: int) -> np.ndarray:
    """Return a mask one move away, with as many runs; the first call stays full.

    At even turns two calls change places, pair after pair: which calls are full matters most. At odd turns a single run moves.

    Args:
        run: mask bool [T, L].
        scores: worth of each run, [T, L].
        rng: chooses the move at odd turns.
        turn: number of the move.

    Example:
        >>> run = np.array([[True, True], [True, True], [False, False]])
        >>> propose(run, run * 1.0, np.random.default_rng(0), turn=0).tolist()
        [[True, True], [False, False], [True, True]]
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
