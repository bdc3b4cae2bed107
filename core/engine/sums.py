"""Differences of neighbouring blocks, kept as one sum: one tensor to keep and one addition to reuse them all."""

from __future__ import annotations

import numpy as np
import torch

from .block_value import Values


class Sums:
    """Adds up the differences of the blocks that run one after the other, group by group.

    Args:
        heads: for each block, the first one of its group, int [L].

    Attributes:
        heads: as asked, with the groups apart that turned out not to fit.

    Example:
        >>> sums, one = Sums(np.array([0, 0, 2])), (torch.ones(1),)
        >>> sums.add(0, (torch.ones(1),)), sums.add(1, (torch.ones(1),))
        ([], [(0, (tensor([2.]),))])
        >>> sums.leads(1), sums.leads(2)
        (False, True)
    """

    def __init__(self, heads: np.ndarray) -> None:
        """Start with no sum under way."""
        self.asked, self.heads = heads, heads.copy()
        self._head = self._last = -1
        self._values: Values = ()

    def leads(self, number: int) -> bool:
        """Whether the sum of its group is kept with this block."""
        return bool(self.heads[number] == number)

    def add(self, number: int, values: Values, alone: bool = False) -> list[tuple[int, Values]]:
        """Add a block's difference; return the sums that are complete, with their heads.

        A block that does not fit to the one before it, such as a last one without text, begins a group of its own.

        Args:
            number: of the block.
            values: its difference, tensors that may be changed.
            alone: keep it by itself.
        """
        if alone:
            self.separate(number)
        done: list[tuple[int, Values]] = []
        if self._continues(number, values):
            for total, value in zip(self._values, values, strict=True):
                if total is not None and value is not None:
                    total.add_(value)
        else:
            done += self.finished()
            self._split(number)
            self._head, self._values = number, values
        self._last = number
        return done if self._goes_on(number) else [*done, *self.finished()]

    def separate(self, number: int) -> None:
        """Keep a block's difference by itself from now on.

        Args:
            number: of the block.
        """
        self._split(number)
        if number + 1 < len(self.heads) and self.heads[number + 1] == number:
            self._split(number + 1)

    def alone(self, number: int) -> bool:
        """Whether a block's difference is kept by itself."""
        return int((self.heads == self.heads[number]).sum()) == 1

    def finished(self) -> list[tuple[int, Values]]:
        """End the sum under way, and return it with its head."""
        head, values = self._head, self._values
        self._head, self._values = -1, ()
        return [(head, values)] if head >= 0 else []

    def _split(self, number: int) -> None:
        """Begin a group with a block that stood in the middle of one."""
        self.heads[(self.heads == self.heads[number]) & (np.arange(len(self.heads)) >= number)] = number

    def _goes_on(self, number: int) -> bool:
        return number + 1 < len(self.heads) and bool(self.heads[number + 1] == self.heads[number])

    def _continues(self, number: int, values: Values) -> bool:
        if self._head < 0 or self.heads[number] != self._head or number != self._last + 1:
            return False
        return len(values) == len(self._values) and all(map(_alike, values, self._values))


def _alike(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
