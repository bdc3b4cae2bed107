"""Key calls as a shortest path: the calls at which running the network saves most error, by dynamic programming.

The error of a forecast between two keys depends on the last keys alone, so the best keys are the shortest path through the
pairs (key before, last key). Compare DPCache (arXiv 2602.22654) and MeanCache (arXiv 2601.19961).
"""

from __future__ import annotations

import numpy as np

from .fitted import Fit
from .names import CallPredictorName, Space
from .predictors import predictor_of
from .profile import Profile

Cost = np.ndarray
"""float64 [T+1, T, T]: squared one-call error at call k (last index) for last key j and key before it i; i = T for none."""

_Paths = dict[tuple[int, int], tuple[float, tuple[int, ...]]]
"""(key before, last key) -> (cost so far, keys)."""


def one_call_costs(profile: Profile, space: Space, predictor: CallPredictorName) -> Cost:
    """Return the squared error of the output that is forecast at each call from each pair of keys.

    Args:
        profile: its Gram matrix scores the forecasts.
        space: what is forecast.
        predictor: one that uses two values at most: "line", "hold", "fitted", or "corrected", whose forecasts are the line's.

    Example:
        >>> from .space import Noise
        >>> levels = (Noise(0.6, 0.8, "eps"),) * 3
        >>> outputs = np.array([[1.0, 1], [2, 1], [3, 1]])  # on a straight line
        >>> gram = np.zeros((6, 6)); gram[3:, 3:] = outputs @ outputs.T
        >>> costs = one_call_costs(Profile(gram, (900.0, 500.0, 100.0), levels, "toy"), "eps", "line")
        >>> round(float(costs[0, 1, 2]), 6), float(costs[3, 0, 2])
        (0.0, 4.0)
    """
    steps, at, gram = profile.steps, profile.positions, profile.gram
    spaces = [profile.space_at(k, space) for k in range(steps)]
    costs = np.full((steps + 1, steps, steps), np.inf)
    fit = Fit(profile)
    for j in range(steps - 1):
        for i in [*range(j), steps]:
            for k in range(j + 1, steps):
                known = [j] if i == steps else [i, j]
                if predictor == "fitted":
                    costs[i, j, k] = fit.error(k, tuple(known))
                    continue
                weights = predictor_of(predictor).weights(at[known].tolist(), float(at[k]), at[j + 1 : k].tolist())
                error = np.zeros(2 * steps)
                for key, weight in zip(known, weights, strict=True):
                    error[key] += weight * spaces[key].x / spaces[k].o
                    error[steps + key] += weight * spaces[key].o / spaces[k].o
                error[k] -= spaces[k].x / spaces[k].o
                error[steps + k] -= 1
                costs[i, j, k] = max(0.0, error @ gram @ error)
    return costs


def best_keys(costs: Cost, calls: int, weights: np.ndarray | None = None, tail: int = 1) -> tuple[int, ...]:
    """Return the steps that run, at the least weighted sum of one-call errors.

    Args:
        costs: of :func:`one_call_costs`.
        calls: how many steps run.
        weights: what an error at each call counts, float64 [T]; 1 each by default.
        tail: last steps that always run.

    Example:
        >>> costs = np.ones((5, 4, 4)); costs[:, :, 1] = 9.0  # the second call is hard to forecast
        >>> best_keys(costs, calls=3)
        (0, 1, 3)
    """
    steps = costs.shape[1]
    if calls >= steps:
        return tuple(range(steps))
    each = np.sqrt(costs) * (np.ones(steps) if weights is None else weights)
    each = np.where(np.isfinite(each), each, 0.0)
    # between[i, j, l]: sum over the calls j < k < l.
    total = np.concatenate([np.zeros((steps + 1, steps, 1)), each.cumsum(axis=2)], axis=2)
    between = total[:, :, :-1] - np.take_along_axis(total, np.arange(1, steps + 1)[None, :, None], axis=2)
    last = steps - 1 if tail else steps
    best: _Paths = {(steps, 0): (0.0, (0,))}
    for _ in range(calls - 1):
        further: _Paths = {}
        for (i, j), (cost, keys) in best.items():
            for nxt in range(j + 1, steps):
                found = cost + between[i, j, nxt]
                if found < further.get((j, nxt), (np.inf, ()))[0]:
                    further[(j, nxt)] = (found, (*keys, nxt))
        best = further
    ends = {
        state: (cost + (total[state[0], state[1], -1] - total[state[0], state[1], state[1] + 1]), keys)
        for state, (cost, keys) in best.items()
        if last == steps or set(range(steps - tail, steps)) <= set(keys)
    }
    return min(ends.values())[1] if ends else tuple(sorted({0, *range(steps - calls + 1, steps)}))
