"""Masks made by rules for a budget: intervals (FORA, DeepCache), and a greedy one by feature variation. Training starts from one.

Each function takes a model and a share of the multiply-adds, and returns a mask bool [T, L] that needs at most that share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...errors import RecipeError, SkipstoneError
from ...plan.rules.deepcache import deepcache
from .costs import Costs, to_budget
from .masked_model import MaskedModel

_HALVINGS = 24
_BENDS = tuple(0.05 * k for k in range(10, 31))


def even_calls(calls: int, full: int) -> list[int]:
    """Return evenly spread calls, the first among them.

    Args:
        calls: number of calls of the run.
        full: how many to choose.

    Example:
        >>> even_calls(10, 4)
        [0, 2, 5, 7]
    """
    return sorted({int(k * calls / full) for k in range(full)})


def _full_calls_mask(shape: tuple[int, int], full: Sequence[int]) -> np.ndarray:
    """The mask bool [T, L] that runs everything at these calls, and nothing at the others."""
    run = np.zeros(shape, dtype=bool)
    run[list(full)] = True
    return run


def interval_scores(shape: tuple[int, int], costs: Costs, target: float) -> np.ndarray:
    """Scores [T, L] whose cut at the budget is an interval mask.

    As many evenly spread full calls as fit score 1 or more, and those of the next denser interval 0.5 more than the rest.

    Args:
        shape: (T, L).
        costs: of the blocks.
        target: share of the multiply-adds.

    Example:
        >>> interval_scores(model.shape, model.costs, target=0.5).mean(axis=1).tolist()
        [1.5, 0.5, 1.5, 0.0]
    """
    calls = shape[0]
    counts = [n for n in range(1, calls + 1) if costs.share(_full_calls_mask(shape, even_calls(calls, n))) <= target]
    fits = max(counts, default=1)
    scores = _full_calls_mask(shape, even_calls(calls, fits)).astype(np.float64)
    more = _full_calls_mask(shape, even_calls(calls, min(calls, fits + 1)))
    return scores + 0.5 * more


def spaced_calls(calls: int, full: int, bend: float = 1.0) -> list[int]:
    """Return spread calls, the first and the last among them.

    Args:
        calls: number of calls of the run.
        full: how many to choose.
        bend: 1 spreads evenly; below 1 they are closer together at the end.

    Example:
        >>> spaced_calls(20, 5), spaced_calls(20, 5, bend=0.5)
        ([0, 5, 10, 14, 19], [0, 10, 13, 16, 19])
    """
    places = np.linspace(0, 1, max(full, 2)) ** bend * (calls - 1)
    return sorted(set(np.round(places).astype(int).tolist()))


def spaced_mask(model: MaskedModel, target: float, bend: float = 1.0) -> np.ndarray:
    """As many full calls as fit the budget, spread by :func:`spaced_calls`, so that the last call is full.

    Args:
        model: to make the mask for.
        target: share of the multiply-adds.
        bend: of :func:`spaced_calls`.

    Raises :class:`RecipeError` if two full calls do not fit.

    Example:
        >>> spaced_mask(model, 0.5)[:, 0].tolist()
        [True, False, False, True]
    """
    shape, costs = model.shape, model.costs
    made = [_full_calls_mask(shape, spaced_calls(shape[0], n, bend)) for n in range(2, shape[0] + 1)]
    fitting = [run for run in made if costs.share(run) <= target]
    if not fitting:
        raise RecipeError(f"two full calls need more than {target:.0%} of the multiply-adds")
    return max(fitting, key=costs.share)


def interval_mask(model: MaskedModel, target: float) -> np.ndarray:
    """FORA's rule (arXiv 2407.01425), fitted to a budget: as many evenly spread full calls as fit, and a part of one more.

    Args:
        model: to make the mask for.
        target: share of the multiply-adds.

    Raises :class:`RecipeError` for a budget out of reach.

    Example:
        >>> interval_mask(model, 0.5)[:, 0].tolist()
        [True, False, True, False]
    """
    return to_budget(interval_scores(model.shape, model.costs, target), target, model.costs)


def deepcache_mask(model: MaskedModel, target: float) -> np.ndarray:
    """DeepCache's rule (arXiv 2312.00858) with the interval and branch that use most of the budget.

    Args:
        model: to make the mask for.
        target: share of the multiply-adds.

    Raises :class:`RecipeError` if no interval fits.

    Example:
        >>> deepcache_mask(model, 0.75).sum(axis=1).tolist()  # blocks that run at each call
        [4, 2, 4, 2]
    """
    branches = sorted({b.depth for b in model.graph.blocks})[:-1] or [0]
    found = [
        deepcache(model.calls, model.graph, every, branch) for every in range(1, model.calls + 1) for branch in branches
    ]
    fitting = [run for run in found if model.costs.share(run) <= target]
    if not fitting:
        raise RecipeError(f"no DeepCache interval needs as little as {target:.0%} of the multiply-adds")
    return max(fitting, key=model.costs.share)


@torch.no_grad()
def block_changes(model: MaskedModel, seeds: Sequence[int]) -> np.ndarray:
    """Relative L1 change [T, L] of each block's value from call to call, along dense runs; 0 at call 0.

    If a call takes several forwards, their mean.

    Args:
        model: to measure on.
        seeds: of the samples.

    Example:
        >>> block_changes(model, seeds=[0, 1]).shape
        (4, 4)
    """
    changes, blocks = np.zeros(model.shape), model.shape[1]
    for call, (before, now) in enumerate(pairwise(model.dense_run(seeds)), 1):
        for number, (new, old) in enumerate(zip(now.caches, before.caches, strict=True)):
            moved = [
                (v - w).abs().sum() / w.abs().sum().clamp_min(1e-12)
                for v, w in zip(new.values, old.values, strict=True)
                if v is not None and w is not None
            ]
            changes[call, number % blocks] += float(torch.stack(moved).mean()) * blocks / len(before.caches)
    return changes


def variation_mask(model: MaskedModel, target: float, seeds: Sequence[int]) -> np.ndarray:
    """Greedy rule: a block runs when its changes since its last run exceed a threshold, which is set to meet the budget.

    Args:
        model: to make the mask for.
        target: share of the multiply-adds.
        seeds: of the samples on which changes are measured.

    Example:
        >>> bool(model.costs.share(variation_mask(model, 0.5, seeds=[0, 1])) <= 0.5)
        True
    """
    changes = block_changes(model, seeds)
    low, high = 0.0, float(changes.sum(axis=0).max()) + 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if model.costs.share(_due(changes, middle)) > target else (low, middle)
    return _due(changes, high)


def _due(changes: np.ndarray, threshold: float) -> np.ndarray:
    run = np.zeros(changes.shape, dtype=bool)
    run[0] = True
    since = np.zeros(changes.shape[1])
    for call in range(1, len(changes)):
        since += changes[call]
        run[call] = since > threshold
        since[run[call]] = 0.0
    return run


def rule_masks(
    model: MaskedModel,
    target: float,
    seeds: Sequence[int],
    refused: Callable[[str, SkipstoneError], None] | None = None,
) -> dict[str, np.ndarray]:
    """The mask of each rule that suits the network and can meet the budget, by name.

    Args:
        model: to make the masks for.
        target: share of the multiply-adds.
        seeds: of the samples on which feature variation is measured.
        refused: called for each rule that cannot meet the budget.

    Example:
        >>> list(rule_masks(model, 0.5, seeds=[0]))
        ['interval', 'interval, last full', 'feature variation']
    """
    makers: dict[str, Callable[[], np.ndarray]] = {
        "interval": lambda: interval_mask(model, target),
        "interval, last full": lambda: spaced_mask(model, target),
        "feature variation": lambda: variation_mask(model, target, seeds),
    }
    if model.graph.caching == "output":
        makers["DeepCache"] = lambda: deepcache_mask(model, target)
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except SkipstoneError as reason:
            if refused is not None:
                refused(name, reason)
    return made


def spread_masks(model: MaskedModel, target: float) -> list[np.ndarray]:
    """The different schedules of :func:`spaced_mask` over many bends; empty if two full calls do not fit the budget.

    Args:
        model: to make the masks for.
        target: share of the multiply-adds.

    Example:
        >>> len(spread_masks(model, 0.75)), spread_masks(model, 0.3)
        (2, [])
    """
    try:
        made = [spaced_mask(model, target, bend) for bend in _BENDS]
    except RecipeError:
        return []
    return list({run.tobytes(): run for run in made}.values())


def filled(run: np.ndarray, model: MaskedModel, target: float) -> np.ndarray:
    """Add as many runs to a mask as fit the budget, those of an interval mask first.

    Args:
        run: mask bool [T, L].
        model: that it is for.
        target: share of the multiply-adds.

    Example:
        >>> empty = np.zeros(model.shape, dtype=bool)
        >>> bool(np.array_equal(filled(empty, model, 0.5), interval_mask(model, 0.5)))
        True
    """
    scores = run + 0.5 * interval_scores(model.shape, model.costs, target) / 1.5
    return to_budget(scores, target, model.costs)


def certain(run: np.ndarray, sureness: float) -> Tensor:
    """Probabilities [T, L] that stand for a mask.

    Args:
        run: mask bool [T, L].
        sureness: probability where the mask runs a block; 1 less this where it reuses.

    Example:
        >>> certain(np.array([[True, False]]), sureness=0.75).tolist()
        [[0.75, 0.25]]
    """
    return torch.from_numpy(np.where(run, sureness, 1 - sureness)).float()
