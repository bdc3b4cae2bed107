"""Pair drift: how much the merged pairs change from call to call, and where checkpoints are worth most.

CA-ToMe section III-B: `J(k) = 1 - |P_k ∩ P_k+1| / |P_k ∪ P_k+1|` with P_k the (source, destination) pairs of call k.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..engine.clock import Stream
from ..engine.merge import PairsFound
from ..errors import RecipeError
from ..plan.run import Positions
from ..recipe.checkpoint_lists import PAPER_CALLS
from ..tokens.maps import Pairs


def jaccard_distance(one: Pairs, other: Pairs) -> Tensor:
    """Distance [B] between the pairs of the same B samples at two calls, in [0, 1]; 0 if neither has any.

    Args:
        one: pairs of B samples.
        other: pairs of the same samples, at another call.

    Example:
        >>> one, other = (Pairs(torch.tensor([partner]), (2,), "mean") for partner in ([0, 1, 0, 1], [0, 1, 0, 0]))
        >>> jaccard_distance(one, other).tolist()  # of three different pairs, one is in both
        [0.6666666269302368]
    """
    position = torch.arange(one.partner.shape[1], device=one.partner.device)
    merged, merged_too = one.partner != position, other.partner != position
    shared = (merged & (one.partner == other.partner)).sum(1)
    either = merged.sum(1) + merged_too.sum(1) - shared
    return 1 - torch.where(either > 0, shared / either.clamp(min=1), 1.0)


@dataclass(frozen=True)
class Drift:
    """J(k) between calls k and k + 1 of a run.

    Args:
        calls: number of calls, T.
        layers: J(k) [T - 1] of each layer, mean over samples and runs; None where that layer did not run at both calls.

    Example:
        >>> Drift(3, {"a": (0.2, 0.4), "b": (0.4, None)}).mean
        (0.30000000000000004, 0.4)
    """

    calls: int
    layers: dict[str, tuple[float | None, ...]]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean over the layers, [T - 1]."""
        columns = zip(*self.layers.values(), strict=True)
        return tuple(_mean([v for v in column if v is not None]) or 0.0 for column in columns)


class DriftMeter:
    """An observer of runs in which pairs are searched at every call; each run begins with call 0.

    Example:
        >>> meter, pairs = DriftMeter(), Pairs(torch.tensor([[0, 1, 0]]), (1,), "mean")
        >>> for call in (0, 1):
        ...     meter(PairsFound("block", call, (Stream("cond", 1),), pairs))
        >>> meter.drift().mean, meter.pairs_seen
        ((0.0,), 2)
    """

    def __init__(self) -> None:
        """Start with no runs."""
        self.pairs_seen = 0
        self._last: dict[tuple[str, tuple[Stream, ...]], PairsFound] = {}
        self._distances: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def __call__(self, found: PairsFound) -> None:
        """Compare pairs with those of the same layer and rows at the call before."""
        key = (found.layer, found.streams)
        before = self._last.get(key)
        if before is not None and before.call == found.call - 1:
            self._distances[found.layer][before.call] += jaccard_distance(before.pairs, found.pairs).tolist()
        self._last[key] = found
        self.pairs_seen += sum(found.pairs.merged)

    def drift(self) -> Drift:
        """Return the drift over all runs so far."""
        calls = 1 + max((k + 1 for values in self._distances.values() for k in values), default=0)
        return Drift(
            calls,
            {
                layer: tuple(_mean(values.get(k, [])) for k in range(calls - 1))
                for layer, values in self._distances.items()
            },
        )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def staleness(drift: Sequence[float], checkpoints: Sequence[int]) -> float:
    """Mean over the calls of the drift accumulated since the last checkpoint.

    The Jaccard distance is a metric, so the accumulated drift bounds how far the pairs in use are from fresh ones.

    Args:
        drift: J(k) for k = 0..T-2.
        checkpoints: calls at which pairs are searched.

    Example:
        >>> staleness([0.1, 0.2, 0.3], checkpoints=[0, 2])  # 0, 0.1, 0 and 0.3 at the four calls
        0.1
    """
    stale, total, fresh = 0.0, 0.0, set(checkpoints)
    for call in range(len(drift) + 1):
        stale = 0.0 if call in fresh or call == 0 else stale + drift[call - 1]
        total += stale
    return total / (len(drift) + 1)


def choose_checkpoints(drift: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the `count` calls, 0 among them, with the least :func:`staleness`; of equals, the earliest. Exact, O(count T^2).

    Args:
        drift: J(k) for k = 0..T-2.
        count: number of checkpoints.

    Raises :class:`RecipeError` for a count outside 1..T.

    Example:
        >>> choose_checkpoints([0.1, 0.1, 0.9, 0.1], count=2)
        (0, 3)
    """
    level = list(accumulate(drift, initial=0.0))
    area = list(accumulate(level, initial=0.0))
    calls = len(level)
    if not 1 <= count <= calls:
        raise RecipeError(f"{count} checkpoints do not fit a run of {calls} calls: ask for 1 to {calls}")

    def cost(first: int, end: int) -> float:
        return area[end] - area[first] - (end - first) * level[first]

    best: list[tuple[float, tuple[int, ...]]] = [(cost(0, end), (0,)) for end in range(calls + 1)]
    for used in range(1, count):
        best = [
            min(
                ((best[at][0] + cost(at, end), (*best[at][1], at)) for at in range(used, end)),
                default=(math.inf, ()),
            )
            for end in range(calls + 1)
        ]
    return best[calls][1]


def as_paper_calls(calls: Sequence[int], timesteps: Sequence[float], train_steps: float = 1000.0) -> tuple[int, ...]:
    """Convert calls of a run to calls of the 51-call run that checkpoint lists are written for, by position.

    Args:
        calls: calls of the run.
        timesteps: training timestep of each call of the run.
        train_steps: training timesteps of the model's noise schedule.

    Example:
        >>> as_paper_calls([0, 5], [999.0 - 100 * k for k in range(10)])
        (0, 28)
    """
    positions = Positions.of_run(timesteps, train_steps)
    if len(timesteps) == PAPER_CALLS and positions.is_full(timesteps):
        return tuple(calls)
    return tuple(sorted({0, *(round(positions.at(timesteps[k]) * (PAPER_CALLS - 1)) for k in calls if k)}))
