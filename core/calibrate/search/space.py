"""What a search may vary: named variables with ordered levels, the recipe they stand for, and lists worth a start."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...recipe.recipe import Recipe

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """choices: the levels of each variable, in order. sequences: variables that follow one another in a run.

    recipe: what values stand for. starts: values to begin with, by name.
    """

    choices: dict[str, tuple[Any, ...]]
    sequences: tuple[tuple[str, ...], ...]
    recipe: Callable[[Values], Recipe]
    starts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def key(self, values: Values) -> tuple[Any, ...]:
        """The values in the order of `choices`: what makes two of them the same."""
        return tuple(values[name] for name in self.choices)

    def random(self, rng: random.Random) -> dict[str, Any]:
        """Values at random. Each sequence has a mix of levels of its own, so that few and many full calls are all met."""
        values = {name: rng.choice(levels) for name, levels in self.choices.items()}
        for names in self.sequences:
            weights = [rng.random() ** 2 + 1e-9 for _ in self.choices[names[0]]]
            for name in names:
                levels = self.choices[name]
                values[name] = rng.choices(levels, weights[: len(levels)])[0]
        return values


def snap(levels: Sequence[Any], value: Any) -> Any:
    """The level nearest to a number; the lower of two as near."""
    return min(levels, key=lambda level: (abs(level - value), level))


def stretched(codes: Sequence[int], count: int) -> list[int]:
    """A list with one depth code per call from 1 on, for a run of `count` such calls.

    Where calls become fewer, a call takes the deepest of those it stands for, so that no full call is lost.
    """
    ends = [max(1, round(k * len(codes) / count)) for k in range(count + 1)]
    starts = [0, *ends[1:-1]]
    return [max(codes[min(a, b - 1) : b]) for a, b in zip(starts, ends[1:], strict=True)]
