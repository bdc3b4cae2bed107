"""Where training begins: the same probability everywhere, or the mask of a rule that already meets the budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .costs import Costs


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
