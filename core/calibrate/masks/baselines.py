"""Masks made by rules for a budget: intervals (FORA, DeepCache) and a greedy one by feature variation. Training begins at one.

Each takes a model and a share of the multiply-adds and returns a mask bool [T, L] that needs at most that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import RecipeError, SkipstoneError
from ...plan.rules.deepcache import deepcache
from .costs import Costs, to_budget
from .gated import Caches
from .masked_model import MaskedModel

_HALVINGS = 24
_BENDS = tuple(0.05 * k for k in range(10, 31))


def even_calls(calls: int, full: int) -> list[int]:
    """`full` of `calls` calls, the first among them, evenly spread."""
    return sorted({int(k * calls / full) for k in range(full)})


def full_calls_mask(shape: tuple[int, int], full: Sequence[int]) -> np.ndarray:
    """The mask bool [T, L] that runs everything at these calls, and nothing at the others."""
    run = np.zeros(shape, dtype=bool)
    run[list(full)] = True
    return run


def interval_scores(shape: tuple[int, int], costs: Costs, target: float) -> np.ndarray:
    """Scores [T, L] whose cut at the budget is an interval mask: as many evenly spread full calls as fit, then a part of more."""
    calls = shape[0]
    counts = [n for n in range(1, calls + 1) if costs.share(full_calls_mask(shape, even_calls(calls, n))) <= target]
    fits = max(counts, default=1)
    scores = full_calls_mask(shape, even_calls(calls, fits)).astype(np.float64)
    more = full_calls_mask(shape, even_calls(calls, min(calls, fits + 1)))
    return scores + 0.5 * more


def spaced_calls(calls: int, full: int, bend: float = 1.0) -> list[int]:
    """`full` of `calls` calls, the first and the last among them. bend: 1 spreads evenly, less has them closer at the end."""
    places = np.linspace(0, 1, max(full, 2)) ** bend * (calls - 1)
    return sorted(set(np.round(places).astype(int).tolist()))


def spaced_mask(model: MaskedModel, target: float, bend: float = 1.0) -> np.ndarray:
    """As many spread full calls as the budget holds, the last call among them (see :func:`spaced_calls`)."""
    shape, costs = model.shape, model.costs
    made = [full_calls_mask(shape, spaced_calls(shape[0], n, bend)) for n in range(2, shape[0] + 1)]
    fitting = [run for run in made if costs.share(run) <= target]
    if not fitting:
        raise RecipeError(f"two full calls need more than {target:.0%} of the multiply-adds")
    return max(fitting, key=costs.share)


def interval_mask(model: MaskedModel, target: float) -> np.ndarray:
    """FORA's, made to fit: as many evenly spread full calls as the budget holds, and a part of one more."""
    return to_budget(interval_scores(model.shape, model.costs, target), target, model.costs)


def deepcache_mask(model: MaskedModel, target: float) -> np.ndarray:
    """DeepCache's interval and branch whose share is the largest within the budget. Raises :class:`RecipeError` for none."""
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

    Of a call in several forwards, their mean.
    """
    at = model.denoiser.begin(seeds)
    changes, blocks = np.zeros(model.shape), model.shape[1]
    before: Caches | None = None
    for call in range(model.calls):
        outcome = model.dense(at, call)
        if before is not None:
            for number, (new, old) in enumerate(zip(outcome.caches, before, strict=True)):
                moved = [
                    (v - w).abs().sum() / w.abs().sum().clamp_min(1e-12)
                    for v, w in zip(new.values, old.values, strict=True)
                    if v is not None and w is not None
                ]
                changes[call, number % blocks] += float(torch.stack(moved).mean()) * blocks / len(before)
        at, before = model.denoiser.advance(at, outcome.output, call), outcome.caches
    return changes


def variation_mask(model: MaskedModel, target: float, seeds: Sequence[int]) -> np.ndarray:
    """Greedy: a block runs when its changes since its last run add up to a threshold, which is set to meet the budget."""
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
    """What each rule that suits the network makes of the budget, by name.

    seeds: samples on which the feature variation is measured. refused: called for each rule that cannot meet the budget.
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
    """Spread full calls of many bends, each schedule once; none where the budget holds no two full calls."""
    try:
        made = [spaced_mask(model, target, bend) for bend in _BENDS]
    except RecipeError:
        return []
    return list({run.tobytes(): run for run in made}.values())


def filled(run: np.ndarray, model: MaskedModel, target: float) -> np.ndarray:
    """A mask with as many runs more as the budget holds: those of an interval mask first."""
    scores = run + 0.5 * interval_scores(model.shape, model.costs, target) / 1.5
    return to_budget(scores, target, model.costs)


def certain(run: np.ndarray, sureness: float) -> Tensor:
    """Probabilities [T, L] that stand for a mask."""
    return torch.from_numpy(np.where(run, sureness, 1 - sureness)).float()
