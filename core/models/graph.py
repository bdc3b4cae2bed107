"""The blocks of a network that can be skipped, in the order they run, and the blocks that each of them reads.

Edges follow the data: the decoder reads encoder outputs through the skips, the next block alone reads a whole block's output,
and every later block reads a branch's output. Liveness (plan/liveness.py) depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..recipe.block_skip import Caching

MIDDLE = 1 << 30
"""Depth of the blocks below all skip connections."""


@dataclass(frozen=True)
class Block:
    """One block of a network.

    Args:
        name: path of the module below the network.
        kind: resnet, transformer, transformer block, attention, cross-attention, feed-forward, block or sample.
        module: the block itself.
        depth: number of its skip connection, 0 the outermost, or :data:`MIDDLE`; in a transformer, the number of the block.
            DeepCache's branch and DaTo's depths count it.
        derived: True for up- and downsamplers: they have no mask entry, and run when a block that they read runs.
        stack: the list of like blocks that it belongs to, along which a hidden state is passed on. With difference caching
            what a block adds to it is cached; which of its inputs that is, the first call shows.

    Example:
        >>> Block("mid_block.attentions.0", "transformer", nn.Identity(), MIDDLE).derived
        False
    """

    name: str
    kind: str
    module: nn.Module
    depth: int
    derived: bool = False
    stack: str = ""


@dataclass(frozen=True)
class Stage:
    """A module that runs consecutive blocks and returns the value of the last one. It need not run where none is consumed.

    Args:
        module: a stage of a U-Net's decoder, or its middle.
        blocks: indices of its blocks.

    Example:
        >>> Stage(nn.Identity(), range(3, 6)).blocks[-1]
        5
    """

    module: nn.Module
    blocks: range


@dataclass(frozen=True)
class BlockGraph:
    """The blocks of a network and the edges between them. Indices count the blocks in forward order.

    Args:
        blocks: in forward order.
        reads: for each block, indices of the blocks whose values it reads.
        head: indices of the blocks that the output layers read.
        caching: what a block's value is: its output, its branch, or the difference that it makes.
        stages: modules around blocks.

    Example:
        >>> a, b = (Block(name, "block", nn.Identity(), depth) for depth, name in enumerate("ab"))
        >>> BlockGraph((a, b), (frozenset(), frozenset({0})), frozenset({1})).is_chain
        True
    """

    blocks: tuple[Block, ...]
    reads: tuple[frozenset[int], ...]
    head: frozenset[int]
    caching: Caching = "output"
    stages: tuple[Stage, ...] = ()

    def __len__(self) -> int:
        return len(self.blocks)

    def follows(self, number: int) -> bool:
        """Whether a block continues the block before it in one stack."""
        stack = self.blocks[number].stack
        return bool(stack) and number > 0 and self.blocks[number - 1].stack == stack

    @property
    def is_chain(self) -> bool:
        """Whether each block reads only the one before it, and the head only the last: Eq. 12 of arXiv 2603.19939 is safe."""
        chain = all(r <= {i - 1} for i, r in enumerate(self.reads))
        return chain and self.head == {len(self) - 1} and self.caching == "output"

    @property
    def signature(self) -> tuple[str, ...]:
        """Kind and depth of each block with a mask entry: equal for one architecture in different code bases."""
        masked = (self.blocks[i] for i in self.masked)
        return tuple(f"{b.kind} {'middle' if b.depth == MIDDLE else b.depth}" for b in masked)

    @property
    def masked(self) -> tuple[int, ...]:
        """Indices of the blocks that have a mask entry."""
        return tuple(i for i, b in enumerate(self.blocks) if not b.derived)


class GraphBuilder:
    """Makes a :class:`BlockGraph` by following the hidden state through a network.

    `state` holds the indices of the blocks that the hidden state is made of.

    Args:
        caching: what a block's value is: its output replaces the state, its branch or difference is added to it.
        split: list the inner blocks of transformers in place of the whole.

    Example:
        >>> builder = GraphBuilder("output")
        >>> builder.add(Block("a", "block", nn.Identity(), 0))
        >>> builder.add(Block("b", "block", nn.Identity(), 1))
        >>> builder.build().reads
        (frozenset(), frozenset({0}))
    """

    def __init__(self, caching: Caching = "output", split: bool = False) -> None:
        """Start with a state that is made of no block."""
        self._split = split
        self.state: frozenset[int] = frozenset()
        self._blocks: list[Block] = []
        self._reads: list[frozenset[int]] = []
        self._stages: list[Stage] = []
        self._caching: Caching = caching

    def add(self, block: Block) -> None:
        """Pass the state through a block."""
        if self._split and block.kind == "transformer":
            return self._add_split(block)
        own = frozenset({len(self._blocks)})
        self._blocks.append(block)
        self._reads.append(self.state)
        self.state = own if self._caching == "output" else self.state | own

    def _add_split(self, block: Block) -> None:
        """Add a transformer's inner blocks. The transformer adds their result to its input."""
        outer = self.state
        for number, inner in enumerate(block.module.transformer_blocks):  # type: ignore[arg-type, union-attr]
            self.add(Block(f"{block.name}.transformer_blocks.{number}", "transformer block", inner, block.depth))
        self.join(outer)

    def join(self, other: Iterable[int]) -> None:
        """Concatenate or add the values of other blocks to the state, given by index."""
        self.state = self.state | frozenset(other)

    def __len__(self) -> int:
        return len(self._blocks)

    def stage(self, module: nn.Module, first: int) -> None:
        """The blocks from `first` on are those of a stage.

        Args:
            module: returns the value of its last block.
            first: index of its first block.
        """
        # The value of a transformer's inner block is not the transformer's.
        if self._caching == "output" and not self._split and len(self) > first:
            self._stages.append(Stage(module, range(first, len(self))))

    def build(self) -> BlockGraph:
        """The graph, with a head that reads the present state."""
        return BlockGraph(tuple(self._blocks), tuple(self._reads), self.state, self._caching, tuple(self._stages))
