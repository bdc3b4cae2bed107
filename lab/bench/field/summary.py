"""What the rows of a cell say: each beside fewer steps at its own cost, the Pareto front, and the aims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .ours import AUTO, OTHER, OURS
from .published import PUBLISHED
from .way import DENSE, FEWER

TARGETS = (1.5, 2.0, 3.0)
"""Speed-ups at which the best of each side are compared."""
_OURS, _RIVAL = 1.06, 1.1
"""What Auto and a rival may cost above the target: 7 of 20 calls stand for 3x, and a rival's settings seldom meet it exactly."""
_DRAWS = 2000
_LEAST = 1e-9
Row = dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """A ratio of typical errors with its 95 % bootstrap interval.

    Args:
        middle: geometric mean of the noises' ratios.
        low: lower end.
        high: upper end.

    Example:
        >>> Ratio(0.5, 0.4, 0.6).verdict, Ratio(1.0, 0.9, 1.1).verdict
        ('ahead', 'level')
    """

    middle: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In one word."""
        return "ahead" if self.high < 1 else "behind" if self.low > 1 else "level"

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(errors: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> Ratio:
    """Return how the errors of the same noises compare, by a paired bootstrap over the noises. No global random state.

    Args:
        errors: of each noise.
        others: of each noise, by the other way.

    Example:
        >>> found = ratio([0.01, 0.02, 0.04], [0.02, 0.04, 0.08])
        >>> round(found.middle, 6), round(found.high, 6)
        (0.5, 0.5)
    """
    own, theirs = (np.log(np.maximum(np.asarray(values, float), _LEAST)) for values in (errors, others))
    logs = own - theirs
    drawn = np.random.default_rng(0).integers(len(logs), size=(_DRAWS, len(logs)))
    low, high = np.exp(np.quantile(logs[drawn].mean(axis=1), (0.025, 0.975)))
    return Ratio(float(np.exp(logs.mean())), float(low), float(high))


def measured(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with figures.

    Args:
        rows: of a cell.

    Example:
        >>> measured([{"name": "a", "reason": "not installed"}])
        []
    """
    return [row for row in rows if "reason" not in row]


def fewer_at(rows: Sequence[Row], share: float) -> np.ndarray | None:
    """Return each noise's error by fewer steps at a share of the multiply-adds, on straight lines between the numbers of steps.

    Args:
        rows: of a cell.
        share: of the dense run's multiply-adds.

    Returns None below the fewest steps.

    Example:
        >>> rows = [{"group": FEWER, "share": 0.5, "errors": [0.25, 0.5]}]
        >>> fewer_at(rows, 0.75).tolist(), fewer_at(rows, 0.25)
        ([0.125, 0.25], None)
    """
    known = sorted((row["share"], row["errors"]) for row in measured(rows) if row["group"] == FEWER)
    if not known or share < known[0][0] - 1e-3:
        return None
    shares = [*(one for one, _ in known), 1.0]
    columns = zip(*(errors for _, errors in known), strict=True)
    return np.array([np.interp(share, shares, [*column, 0.0]) for column in columns])


def beside_fewer(rows: Sequence[Row], row: Row) -> Ratio | None:
    """Return how a row compares with fewer steps at its own multiply-adds; None where there are none, and for steps.

    Args:
        rows: of a cell.
        row: one of them.

    Example:
        >>> rows = [{"group": FEWER, "share": 0.5, "errors": [0.2, 0.4]}, {"group": AUTO, "share": 0.5, "errors": [0.1, 0.2]}]
        >>> round(beside_fewer(rows, rows[1]).middle, 6)
        0.5
    """
    if row["group"] in (DENSE, FEWER, OTHER):
        return None
    at = fewer_at(rows, row["share"])
    return None if at is None or row["share"] >= 1 else ratio(row["errors"], at)


def front(rows: Sequence[Row]) -> set[str]:
    """Return the names of the rows that no other one beats in both multiply-adds and typical error.

    Args:
        rows: of a cell.

    Example:
        >>> found = (("a", 0.5, 0.1), ("b", 0.5, 0.2), ("c", 0.6, 0.05))
        >>> sorted(front([{"name": name, "group": "", "share": share, "errors": [error]} for name, share, error in found]))
        ['a', 'c']
    """
    found, best = set(), np.inf
    there = [row for row in measured(rows) if row["group"] not in (DENSE, OTHER)]
    for row in sorted(there, key=lambda row: (round(row["share"], 3), typical(row["errors"]))):
        if typical(row["errors"]) < best:
            best = typical(row["errors"])
            found.add(row["name"])
    return found


def typical(errors: Sequence[float]) -> float:
    """Return the geometric mean.

    Args:
        errors: of each noise.

    Example:
        >>> round(typical([0.01, 0.04]), 6)
        0.02
    """
    return float(np.exp(np.log(np.maximum(np.asarray(errors, float), _LEAST)).mean()))


@dataclass(frozen=True)
class Aim:
    """Auto at one speed-up, beside fewer steps and the best rival.

    Args:
        target: the speed-up.
        ours: row of Auto.
        fewer: ratio to fewer steps at the same multiply-adds; None below the fewest.
        rival: row of the best peer or published rule; None if none is as cheap.
        against: ratio to it.

    Example:
        >>> Aim(2.0, {"name": "Auto 2x"}, None, None, None).target
        2.0
    """

    target: float
    ours: Row
    fewer: Ratio | None
    rival: Row | None
    against: Ratio | None


def aims(rows: Sequence[Row]) -> list[Aim]:
    """Return Auto at each of :data:`TARGETS`. A rival may cost a tenth more than the target.

    Args:
        rows: of a cell.

    Example:
        >>> aims([])
        []
    """
    return [found for target in TARGETS if (found := _aim(rows, target))]


def _aim(rows: Sequence[Row], target: float) -> Aim | None:
    ours = _best(rows, _OURS / target, (AUTO,))
    if ours is None:
        return None
    rivals = {row["group"] for row in rows} - {AUTO, OURS, FEWER, OTHER, DENSE}
    rival = _best(rows, _RIVAL / target, (*rivals, PUBLISHED))
    against = ratio(ours["errors"], rival["errors"]) if rival else None
    return Aim(target, ours, beside_fewer(rows, ours), rival, against)


def _best(rows: Sequence[Row], most: float, groups: Sequence[str]) -> Row | None:
    """Return the row of least typical error that costs at most a share, of some groups."""
    there = [row for row in measured(rows) if row["group"] in groups and row["share"] <= most]
    return min(there, key=lambda row: typical(row["errors"]), default=None)
