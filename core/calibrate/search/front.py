"""Pareto fronts of points; smaller is better in every coordinate."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Return whether no coordinate is worse and one is better.

    Args:
        one: a point.
        other: the point that it may dominate.

    Example:
        >>> dominates((1.0, 2.0), (1.0, 3.0)), dominates((1.0, 2.0), (2.0, 1.0))
        (True, False)
    """
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that none dominates, in the order of their last coordinate; of equal points, the first.

    Example:
        >>> front([(3.0, 1.0), (1.0, 3.0), (2.0, 3.0)])
        [0, 1]
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][::-1], i))
    kept: list[int] = []
    for i in order:
        if not any(points[k] == points[i] or dominates(points[k], points[i]) for k in kept):
            kept.append(i)
    return kept


def spread(points: Sequence[Point], count: int) -> list[int]:
    """Indices of some points of a front, evenly spaced in the last coordinate, the two ends among them.

    Args:
        points: of a front, by rising last coordinate.
        count: most indices.

    Example:
        >>> spread([(4.0, 0.0), (3.0, 0.1), (2.0, 0.5), (1.0, 1.0)], count=3)
        [0, 2, 3]
    """
    if len(points) <= count:
        return list(range(len(points)))
    at = [p[-1] for p in points]
    wanted = [at[0] + (at[-1] - at[0]) * n / max(1, count - 1) for n in range(count)]
    return sorted({min(range(len(at)), key=lambda i: abs(at[i] - w)) for w in wanted})
