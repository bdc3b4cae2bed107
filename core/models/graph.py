"""The blocks of a network that can be skipped, in the order they run, and who reads whose output.

The graph is the true one: encoder outputs are read by the decoder through the skips, whole-block outputs by the next block
only, branch outputs by everything after them. Liveness (plan/liveness.py) depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..recipe.block_skip import Caching

MIDDLE = 1 << 30
"""Depth of the blocks below all skips."""


@dataclass(frozen=True)
class Block:
    """One node of a mask.

    kind: what it is (resnet, transformer, transformer block, attention, cross-attention, feed-forward, block, sample).
    depth: how far from the output its skip connection is, 0 the outermost; :data:`MIDDLE` below all skips. In a
        transformer, its place. This is the number that DeepCache's branch and DaTo's depth speak of.
    derived: an up- or downsampler. It has no mask entry of its own and runs when something it reads did.
    carries: for each output, the input (keyword, position) that it continues. With branch caching, a block that has
        them is cached as the difference it makes to these; one without is a branch already.
    """

    name: str
    kind: str
    module: nn.Module
    depth: int
    derived: bool = False
    carries: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class BlockGraph:
    """blocks in forward order; reads[i]: blocks whose value block i reads; head: blocks that the output layers read."""

    blocks: tuple[Block, ...]
    reads: tuple[frozenset[int], ...]
    head: frozenset[int]
    caching: Caching = "output"

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def is_chain(self) -> bool:
        """True when each block reads only the one before it and the head only the last: where the paper's Eq. 12 is safe."""
        chain = all(r <= {i - 1} for i, r in enumerate(self.reads))
        return chain and self.head == {len(self) - 1} and self.caching == "output"

    @property
    def signature(self) -> tuple[str, ...]:
        """Kind and depth of each masked block: equal for the same architecture in different code bases."""
        masked = (self.blocks[i] for i in self.masked)
        return tuple(f"{b.kind} {'middle' if b.depth == MIDDLE else b.depth}" for b in masked)

    @property
    def masked(self) -> tuple[int, ...]:
        """Indices of the blocks that have a mask entry."""
        return tuple(i for i, b in enumerate(self.blocks) if not b.derived)


class GraphBuilder:
    """Follows a hidden state through a network: every block reads what the state was made of."""

    def __init__(self, caching: Caching = "output", split: bool = False) -> None:
        """Start with a state that no block has touched. split: take transformers apart into their single blocks."""
        self._split = split
        self.state: frozenset[int] = frozenset()
        self._blocks: list[Block] = []
        self._reads: list[frozenset[int]] = []
        self._caching: Caching = caching

    def add(self, block: Block) -> None:
        """The state passes through a block. With branch caching its result joins the state, else it is the state."""
        if self._split and block.kind == "transformer":
            return self.add_split(block)
        own = frozenset({len(self._blocks)})
        self._blocks.append(block)
        self._reads.append(self.state)
        self.state = self.state | own if self._caching == "branch" else own

    def add_split(self, block: Block) -> None:
        """A transformer's single blocks in place of the whole; what they make is added to the transformer's input."""
        outer = self.state
        for number, inner in enumerate(block.module.transformer_blocks):  # type: ignore[arg-type, union-attr]
            self.add(Block(f"{block.name}.transformer_blocks.{number}", "transformer block", inner, block.depth))
        self.join(outer)

    def join(self, other: Iterable[int]) -> None:
        """Another value is concatenated or added to the state."""
        self.state = self.state | frozenset(other)

    def build(self) -> BlockGraph:
        """The graph; the head reads the state as it is now."""
        return BlockGraph(tuple(self._blocks), tuple(self._reads), self.state, self._caching)
