"""Nested tuples, lists and dicts of tensors: what a block is called on, and what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Path = tuple[Any, ...]
"""Indices and keys from the outermost container to a leaf; () for a leaf that is in none."""
_DEEPEST = 4


def leaves(nest: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Iterate over the leaves, with their paths.

    Args:
        nest: tuples, lists and dicts in each other; anything else is a leaf, None and what is nested too deeply as well.
        path: of `nest` itself.

    Example:
        >>> list(leaves((1, {"x": [2, None]})))
        [((0,), 1), ((1, 'x', 0), 2), ((1, 'x', 1), None)]
    """
    if not isinstance(nest, (tuple, list, dict)) or len(path) >= _DEEPEST:
        yield path, nest
        return
    for key, value in nest.items() if isinstance(nest, dict) else enumerate(nest):
        yield from leaves(value, (*path, key))


def at(nest: Any, path: Path) -> Any:
    """Return the leaf at a path; None if there is none.

    Args:
        nest: tuples, lists and dicts in each other.
        path: of the leaf.

    Example:
        >>> at((1, {"x": [2]}), (1, "x", 0)), at((1,), (1, "x"))
        (2, None)
    """
    for key in path:
        try:
            nest = nest[key]
        except (KeyError, IndexError, TypeError):
            return None
    return nest


def filled(like: Any, values: Iterable[Any]) -> Any:
    """Return a nest with other leaves.

    Args:
        like: a nest of the same form.
        values: its leaves, in order.

    Example:
        >>> filled((None, {"x": [None]}), [1, 2])
        (1, {'x': [2]})
    """
    return _filled(like, iter(values))


def form(nest: Any) -> Any:
    """Return the nest with None for each leaf, which holds no tensor.

    Example:
        >>> form(("a", ["b", "c"])), form("a")
        ((None, [None, None]), None)
    """
    return filled(nest, (None for _ in leaves(nest)))


def _filled(like: Any, values: Iterator[Any]) -> Any:
    if isinstance(like, dict):
        found = {key: _filled(value, values) for key, value in like.items()}
        return found if type(like) is dict else type(like)(**found)
    if not isinstance(like, (tuple, list)):
        return next(values)
    parts = [_filled(part, values) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
