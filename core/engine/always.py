"""The blocks that run at every call, whatever the plan says, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..models.graph import BlockGraph
from ..models.readers import foreign_hook
from .report import shortened


class Always:
    """Blocks that other code reads, and those that cannot be cached.

    Args:
        graph: the network's blocks.

    Attributes:
        why: number of a block -> the reason.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> always = Always(BlockGraph((Block("a", "block", nn.Identity(), 0),), (frozenset(),), frozenset({0})))
        >>> always.look(readers={0: "a hook"}, unfit={})
        >>> list(always.lines())
        ['runs at every call because a hook reads it: a']
    """

    def __init__(self, graph: BlockGraph) -> None:
        """Start with none."""
        self._graph = graph
        self.why: dict[int, str] = {}

    def look_for_hooks(self) -> None:
        """Find the blocks that hooks of other code read. They are found before the first call."""
        found = ((i, foreign_hook(b.module)) for i, b in enumerate(self._graph.blocks))
        self.why = {i: f"{reader} reads it" for i, reader in found if reader}

    def look(self, readers: Mapping[int, str], unfit: Mapping[int, str]) -> None:
        """Add what the first call showed.

        Args:
            readers: number of a block -> what stores values while it runs.
            unfit: number of a block -> why it cannot be cached.
        """
        self.why |= {i: f"{reader} reads it" for i, reader in readers.items()}
        self.why |= {i: f"it {why}" for i, why in unfit.items()}

    def lines(self) -> Iterator[str]:
        """One line per reason, for the report."""
        for why in sorted(set(self.why.values())):
            names = shortened([self._graph.blocks[i].name for i, w in self.why.items() if w == why])
            yield f"runs at every call because {why}: {names}"
