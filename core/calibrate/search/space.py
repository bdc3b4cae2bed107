"""The space of a search: named variables with ordered levels, the recipe that they stand for, and lists to start with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...recipe.recipe import Recipe

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """What a search varies.

    Args:
        choices: the levels of each variable, in order.
        sequences: names of variables that follow one another in a run.
        recipe: makes the recipe of some values.
        starts: values to begin with, by name.

    Example:
        >>> space = Space({"a": (0, 1), "b": (0, 1, 12)}, (("a", "b"),), recipe=lambda values: Recipe())
        >>> space.key({"b": 12, "a": 0})
        (0, 12)
    """

    choices: dict[str, tuple[Any, ...]]
    sequences: tuple[tuple[str, ...], ...]
    recipe: Callable[[Values], Recipe]
    starts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def key(self, values: Values) -> tuple[Any, ...]:
        """The values in the order of `choices`, for comparing."""
        return tuple(values[name] for name in self.choices)

    def random(self, rng: random.Random) -> dict[str, Any]:
        """Draw values. Each sequence has its own mix of levels, so that few and many full calls are equally likely."""
        values = {name: rng.choice(levels) for name, levels in self.choices.items()}
        for names in self.sequences:
            weights = [rng.random() ** 2 + 1e-9 for _ in self.choices[names[0]]]
            for name in names:
                levels = self.choices[name]
                values[name] = rng.choices(levels, weights[: len(levels)])[0]
        return values


def snap(levels: Sequence[Any], value: Any) -> Any:
    """The level nearest to a number; of two as near, the lower.

    Args:
        levels: to choose from.
        value: the number.

    Example:
        >>> snap((0, 1, 12), 7)
        12
    """
    return min(levels, key=lambda level: (abs(level - value), level))


def stretched(codes: Sequence[int], count: int) -> list[int]:
    """Fit a list of depth codes to another number of calls.

    If there are fewer calls, each takes the deepest of those it stands for, so that no full call is lost.

    Args:
        codes: one depth code per call, from call 1 on.
        count: number of such calls.

    Example:
        >>> stretched([1, 12, 1, 0], count=2), stretched([1, 12], count=4)
        ([12, 1], [1, 1, 12, 12])
    """
    ends = [max(1, round(k * len(codes) / count)) for k in range(count + 1)]
    starts = [0, *ends[1:-1]]
    return [max(codes[min(a, b - 1) : b]) for a, b in zip(starts, ends[1:], strict=True)]
