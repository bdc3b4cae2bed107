"""What the blocks of a stack pass on, observed while they run: which inputs their outputs continue.

With difference caching a block's value is what it adds to those inputs. Nothing is taken from names: an output of one block
that is an argument of the next block of its stack is continued by it. Where the network changes it in between, the output
continues the only input of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from ..models.graph import BlockGraph
from .block_value import Values, cloned, subtracted
from .nest import Path, at, filled, form, leaves
from .override import Override, Overrides

Slots = tuple[Path | None, ...]
"""For each output, the path of the argument that it continues; None for an output that is not passed on."""
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Difference = tuple[int, Values]
"""Number of a block, and what it adds to its inputs."""


@dataclass(frozen=True)
class _Waiting:
    """A block that ran before it was known which inputs its outputs continue."""

    number: int
    copies: dict[Path, Tensor]
    outputs: tuple[Any, ...]
    kept: Values
    """Copies of the outputs, which may be changed in place before the next block runs."""


class Observation:
    """Follows the hidden state through the stacks of a network.

    Args:
        graph: the network's blocks; those with a `stack` are observed.

    Attributes:
        unfit: number of a block -> why its difference cannot be cached.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> blocks = tuple(Block(f"layers.{i}", "block", nn.Identity(), i, stack="layers") for i in range(2))
        >>> seen = Observation(BlockGraph(blocks, (frozenset(),) * 2, frozenset({0, 1}), "difference"))
        >>> x, y = torch.ones(1, 2, 3), torch.full((1, 2, 3), 4.0)
        >>> copies = seen.enter(0, (x, 0.5), {})
        >>> seen.leave(0, copies, y)  # not yet known what continues x
        []
        >>> copies = seen.enter(1, (y, 0.5), {})
        >>> [(number, values[0].unique().tolist()) for number, values in seen.leave(1, copies, 2 * y)]
        [(0, [3.0]), (1, [4.0])]
        >>> [t.shape for t in seen.inputs(1, (y, 0.5), {})]
        [torch.Size([1, 2, 3])]
    """

    def __init__(self, graph: BlockGraph) -> None:
        """Know nothing yet."""
        self._stacks = [block.stack for block in graph.blocks]
        self._slots: dict[str, Slots] = {}
        self._forms: dict[int, Any] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._late: list[Difference] = []
        self._made: dict[int, ReferenceType[Tensor]] = {}
        self._read_later: set[str] = set()
        self._closed = False
        self.unfit: dict[int, str] = {}

    def enter(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Path, Tensor]:
        """Return copies of the inputs that a block may continue. Call it before the block runs, which may change them in place.

        Args:
            number: of the block.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        given, stack = (args, kwargs), self._stacks[number]
        if stack not in self._slots:
            self._resolve(stack, given)
        known = self._slots.get(stack)
        self._look_back(stack, given)
        found = _tensors(given) if known is None else ((path, at(given, path)) for path in known if path is not None)
        return {path: value.clone() for path, value in found if isinstance(value, Tensor)}

    def leave(self, number: int, copies: dict[Path, Tensor], output: Any) -> list[Difference]:
        """Return the differences that are known now: of this block, and of one that waited for it.

        Args:
            number: of the block that ran.
            copies: of :meth:`enter`.
            output: of the block.
        """
        outputs = tuple(value for _, value in leaves(output))
        if not all(value is None or isinstance(value, Tensor) for value in outputs):
            self._refuse(self._stacks[number], "returns more than tensors")
        if number in self.unfit:
            return self._taken()
        self._forms[number] = form(output)
        if not self._closed:
            self._made |= {id(value): ref(value) for value in outputs if value is not None}
        slots = self._slots.get(self._stacks[number])
        if slots is None:
            self._waiting[self._stacks[number]] = _Waiting(number, copies, outputs, cloned(outputs))
        else:
            self._late.append((number, _less(outputs, copies, slots)))
        return self._taken()

    def close(self) -> list[Difference]:
        """End a forward. Return the differences of stacks of one block, whose outputs continue the only inputs of their shape."""
        for stack, last in list(self._waiting.items()):
            alone = _alone(last)
            if any(path is not None for path in alone):
                self._know(stack, alone)
            else:
                self._refuse(stack, "continues none of its inputs")
        self._closed, self._made = True, {}
        return self._taken()

    def inputs(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Values:
        """Return the inputs that a block's outputs continue, one for each output, once they are known.

        Args:
            number: of the block.
            args: its positional arguments.
            kwargs: its keyword arguments.
        """
        slots = self._slots[self._stacks[number]]
        return tuple(None if path is None else at((args, kwargs), path) for path in slots)

    def output(self, number: int, values: Values) -> Any:
        """Return values in the form of a block's own output.

        Args:
            number: of a block that ran.
            values: one for each of its outputs.
        """
        return filled(self._forms[number], values)

    def knows(self, number: int) -> bool:
        """Whether it is known which inputs a block continues."""
        return self._stacks[number] in self._slots

    def refuses_sums(self, number: int) -> bool:
        """Whether a block's difference must be kept by itself, because it is not all that happens to what it passes on."""
        stack = self._stacks[number]
        return stack in self._read_later or None in self._slots.get(stack, ())

    def _look_back(self, stack: str, given: Arguments) -> None:
        """In the first forward, find arguments that are outputs of earlier blocks and are not continued (long skips)."""
        known = self._slots.get(stack)
        if known is None or self._closed:
            return
        for path, value in _tensors(given):
            made = self._made.get(id(value))
            if made is not None and made() is value and path not in known:
                self._read_later.add(stack)

    def _resolve(self, stack: str, given: Arguments) -> None:
        """Find the outputs of the block before among the arguments of this one."""
        last = self._waiting.get(stack)
        if last is None or stack in (self._stacks[n] for n in self.unfit):
            return
        passed = tuple(_place(given, *pair, last.copies) for pair in zip(last.outputs, last.kept, strict=True))
        slots = passed if any(path is not None for path in passed) else _alone(last)
        if slots is not passed:  # the network changes what lies between the blocks
            self._read_later.add(stack)
        if all(path is None for path in slots):
            self._refuse(stack, "does not pass its output on to the next block")
        else:
            self._know(stack, slots)

    def _know(self, stack: str, slots: Slots) -> None:
        last = self._waiting.pop(stack)
        self._slots[stack] = slots
        self._late.append((last.number, _less(last.kept, last.copies, slots)))

    def _refuse(self, stack: str, why: str) -> None:
        self._waiting.pop(stack, None)
        self.unfit |= {n: why for n, name in enumerate(self._stacks) if name == stack}

    def _taken(self) -> list[Difference]:
        late, self._late = self._late, []
        return late


def observe(graph: BlockGraph, work: Callable[[], Any]) -> Observation:
    """Run a network once, and return what its blocks pass on.

    Args:
        graph: the network's blocks.
        work: runs the network.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> blocks = tuple(Block(f"layers.{i}", "block", nn.Linear(2, 3), i, stack="layers") for i in range(2))
        >>> graph = BlockGraph(blocks, (frozenset(),) * 2, frozenset({0, 1}), "difference")
        >>> seen = observe(graph, lambda: [block.module(torch.ones(1, 2)) for block in blocks])
        >>> seen.unfit[0]
        'does not pass its output on to the next block'
    """
    seen = Observation(graph)

    def around(number: int) -> Callable[..., Any]:
        def watched(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            copies = seen.enter(number, args, kwargs)
            output = inner(*args, **kwargs)
            seen.leave(number, copies, output)
            return output

        return watched

    watched = [Override(b.module, around(n)) for n, b in enumerate(graph.blocks) if b.stack]
    overrides = Overrides(watched)
    try:
        overrides.install()
        work()
    finally:
        overrides.discard()
    seen.close()
    return seen


def _tensors(given: Arguments) -> Iterator[tuple[Path, Tensor]]:
    for path, value in leaves(given):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
            yield path, value


def _place(given: Arguments, output: Any, kept: Tensor | None, copies: dict[Path, Tensor]) -> Path | None:
    """Return where an output of the block before stands among the arguments; None if it is not passed on.

    Args:
        given: arguments of this block.
        output: of the block before.
        kept: its copy, as the output may have been changed in place since.
        copies: the inputs of the block before.
    """
    if kept is None:
        return None
    alike = [(path, value) for path, value in _tensors(given) if path in copies and value.shape == kept.shape]
    same = [path for path, value in alike if value is output and copies[path].shape == kept.shape]
    equal = (p for p, v in alike if copies[p].shape == kept.shape and v.dtype == kept.dtype and torch.equal(v, kept))
    return same[0] if same else next(equal, None)


def _alone(last: _Waiting) -> Slots:
    """Return for each output the only input of its shape."""
    return tuple(_only(last.copies, value) for value in last.kept)


def _only(copies: dict[Path, Tensor], value: Tensor | None) -> Path | None:
    """Return the only input of a value's shape; None if there is none, or several."""
    alike = [] if value is None else [path for path, copy in copies.items() if copy.shape == value.shape]
    return alike[0] if len(alike) == 1 else None


def _less(outputs: Values, copies: dict[Path, Tensor], slots: Slots) -> Values:
    """Return outputs - inputs, as tensors of their own."""
    values = subtracted(outputs, tuple(None if path is None else copies.get(path) for path in slots))
    return values if None not in slots else cloned(values)
