"""Pareto fronts of points that are better the smaller they are."""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """No coordinate worse, one better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that none dominates, the first of equals only, by their last coordinate."""
    order = sorted(range(len(points)), key=lambda i: (points[i][::-1], i))
    kept: list[int] = []
    for i in order:
        if not any(points[k] == points[i] or dominates(points[k], points[i]) for k in kept):
            kept.append(i)
    return kept


def spread(points: Sequence[Point], count: int) -> list[int]:
    """Indices of up to `count` points of a front, the two ends among them, evenly spaced in the last coordinate."""
    if len(points) <= count:
        return list(range(len(points)))
    at = [p[-1] for p in points]
    wanted = [at[0] + (at[-1] - at[0]) * n / max(1, count - 1) for n in range(count)]
    return sorted({min(range(len(at)), key=lambda i: abs(at[i] - w)) for w in wanted})
