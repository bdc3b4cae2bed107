"""Block skipping in one run: at each call a block runs, returns its cached output, or is dead.

Caches are kept per stream, and only while a later call reads them. A forward with a stream that lacks a cache runs in full.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from ..models import unwrapped
from ..models.graph import BlockGraph
from ..plan.block_plan import BlockPlan, graph_of
from ..plan.liveness import State
from ..recipe.block_skip import BlockSkip
from .always import Always
from .block_caches import BlockCaches
from .block_rest import rest
from .block_value import Values, added, as_output, as_values
from .call import NO_CALL, Call
from .clock import Tick
from .meter import Meter
from .network import Network
from .observation import Observation
from .override import Around, Override
from .part import Maker
from .proof import Proof
from .sums import Sums
from .tally import Tally

_DEAD, _REUSE, _RUN = (int(state) for state in State)


class BlockPart:
    """Block skipping in one run: a row of the plan for each forward, and a cache per block.

    Args:
        plan: the settings, bound to the run.
        graph: the model's blocks.
        meter: where counts and notes go.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> from skipstone.core.plan.run import Horizon
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 0),), (frozenset(),), frozenset({0}))
        >>> part = BlockPart(BlockPlan(BlockSkip(rule="interval"), graph, "toy", Horizon()), graph)
        >>> part.begin(Tick(0, new=True), NO_CALL), part.evaluates, part.nbytes
        (True, True, 0)
    """

    @classmethod
    def on(cls, settings: BlockSkip, network: Network) -> Maker:
        """Return what makes this part in each run on a network.

        Args:
            settings: which rule or mask to follow.
            network: the model.

        Raises :class:`MaskError` for settings that do not fit it.
        """
        family = network.family
        graph = graph_of(settings, family, unwrapped(network.root))
        return lambda horizon, meter: cls(BlockPlan(settings, graph, family.name, horizon), graph, meter)

    def __init__(self, plan: BlockPlan, graph: BlockGraph, meter: Meter | None = None) -> None:
        """Prepare; nothing is changed on the model."""
        self._plan, self._graph = plan, graph
        self._meter = meter or Meter()
        self._caches = BlockCaches(len(graph), plan.settings)
        # This forward's row, and which values to keep for later calls.
        self._full = np.full(len(graph), State.RUN, dtype=np.int8)
        self._row, self._keep = self._full, np.ones(len(graph), dtype=bool)
        self._listed: tuple[list[int], list[bool]] = ([], [])  # the same, for the blocks: numpy's scalars are slow
        self._call, self._index = NO_CALL, -1
        self._due = np.zeros(len(graph), dtype=np.int64)  # the call of each block's last run; older values are stale
        self._rows = 0
        self._proof, self._tally, self._always = Proof(graph), Tally(graph), Always(graph)
        self._seen, self._sums = Observation(graph), Sums(plan.heads())
        self._overrides, self._plain = self._made(), list[int]()

    def overrides(self) -> list[Override]:
        """Return one override per block and stage. Those are idle that have nothing to do in the forward that was begun."""
        return self._overrides

    def _made(self) -> list[Override]:
        blocks = [Override(b.module, self._around(i)) for i, b in enumerate(self._graph.blocks)]
        return blocks + [Override(stage.module, self._around_stage(stage.blocks)) for stage in self._graph.stages]

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide the row of this forward.

        The whole forward runs in full if one of its streams lacks a cache, or missed the last refresh.

        Args:
            tick: the call that the forward belongs to.
            call: the forward.
        """
        if self._proof.failure:
            return False
        if tick.surprise:
            self._plan.abandon()
        self._meter.note(*self._plan.notes)
        # Sizes, costs and what other code reads are known in two parts: before the first call, and after it.
        if tick.new and tick.index < 2:
            self._run_always(tick.index)
        if tick.new and tick.index == 1:
            self._budget()
        if tick.new and (tick.index < 2 or tick.surprise):
            self._regroup()
        self._unhook()
        if tick.index == 0:
            self._proof.open()
        self._rows += call.rows if tick.index == 0 else 0
        self._call, keys = call, call.keys()
        self._row, self._keep = self._plan.row(tick.index, call.timestep, call.last, call.step, call.input)
        self._index = tick.index
        self._due[self._row == State.RUN] = tick.index
        reused = [i for i in np.flatnonzero(self._row == State.REUSE).tolist() if self._sums.leads(i)]
        # Decided for the whole forward: running one block in place of its cache would give it inputs of dead blocks.
        if tick.surprise or not all(self._caches[i].has(keys, self._due[i]) for i in reused):
            self._row = self._full
        # Free values before their blocks run again; a forecast still needs the old value.
        renewed = (self._row == State.RUN) & (not self._plan.settings.forecast)
        self._drop(renewed | ((self._row != State.REUSE) & ~self._keep))
        self._listed = self._row.tolist(), self._keep.tolist()
        out = [self._leaves_out(stage.blocks) for stage in self._graph.stages]
        self._plain = rest(self._overrides, self._graph, *self._listed, out, self._known)
        return True

    def _leaves_out(self, blocks: range) -> bool:
        """Whether a stage is left out: none of its blocks is consumed, and its output's shape is known."""
        return not any(self._listed[0][blocks.start : blocks.stop]) and self._caches[blocks[-1]].knows(
            self._call.keys()
        )

    def _known(self, number: int) -> bool:
        """Whether nothing more is to be learnt of a block by watching it run."""
        seen = self._seen
        if self._graph.caching == "difference":
            shown = seen.knows(number) or number in seen.unfit
        else:
            shown = self._caches[number].knows(self._call.keys())
        return self._index > 0 and shown and self._tally.knows(number)

    def end(self) -> None:
        """Free what no later call reads, and report the counts so far."""
        for number in self._plain:
            self._tally.add(number, _RUN, self._call.rows)
        self._plain = []
        self._gain(self._seen.close())
        self._sums.finished()  # a sum that lacks a block is not kept
        self._drop(~self._keep)
        if self._proof.close(self._seen.unfit):
            self._refuse()
        self._call = NO_CALL
        self._report()

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the caches of streams that left the run."""
        self._caches.forget(keys)

    def close(self) -> None:
        """Report the counts, and free everything."""
        self._unhook()
        self._report()
        self._caches.clear()

    @property
    def counts(self) -> np.ndarray:
        """Blocks that were dead, reused and run so far, int [3], by :class:`State`."""
        return self._tally.counts

    @property
    def macs(self) -> np.ndarray:
        """Their multiply-adds, int [3]."""
        return self._tally.macs

    @property
    def nbytes(self) -> int:
        """Memory held by caches, in bytes."""
        return self._caches.nbytes

    @property
    def evaluates(self) -> bool:
        """Whether any block runs in this forward."""
        return bool((self._row == State.RUN).any())

    @property
    def plain_serves(self) -> bool:
        """Whether no block is left out of this forward."""
        return not (self._row == State.DEAD).any()

    def _unhook(self) -> None:
        """Remove the hooks of a forward that was interrupted (Ctrl-C)."""
        self._proof.stop()
        self._tally.unhook()

    def _drop(self, blocks: np.ndarray) -> None:
        self._caches.drop(blocks, self._call.keys())

    def _run_always(self, index: int) -> None:
        """Run some blocks at every call. Hooks are found before the first call, other reasons by it."""
        if index == 0:
            self._always.look_for_hooks()
        self._always.look(self._tally.readers, self._proof.unfit)
        self._plan.run_always(self._always.why)
        self._meter.note(*self._always.lines())

    def _regroup(self) -> None:
        """Keep the differences in the sums that the plan allows now."""
        heads, sums = self._plan.heads(), self._sums
        apart = [i for i in range(len(heads)) if self._seen.refuses_sums(i)]
        if not np.array_equal(heads, sums.asked) or not all(map(sums.alone, apart)):
            self._drop(np.ones(len(heads), dtype=bool))
            self._sums = Sums(heads)
            for number in apart:
                self._sums.separate(number)

    def _refuse(self) -> None:
        """Stop skipping: the first call did not match the graph, so the rest of the run is unaccelerated."""
        self._drop(np.ones(len(self._graph), dtype=bool))
        self._tally.forget()
        self._meter.decline("block skipping", self._proof.failure)

    def _budget(self) -> None:
        """Apply the memory budget after the first call, when sizes and costs are known."""
        caches = self._caches
        self._meter.note(self._plan.fit(caches.sizes(self._rows), self._tally.costs, caches.limit))

    def _report(self) -> None:
        """Add what was counted since the last report to the meter."""
        self._tally.report(self._meter)
        self._meter.keep_cache(self._caches.peak)

    def _gain(self, differences: Iterable[tuple[int, Values]]) -> None:
        """Cache what blocks added to their inputs, in sums."""
        for number, values in differences:
            if self._proof.gives(number, values, self._call.rows):
                self._caches[number].note(self._call, values)
                alone = self._seen.refuses_sums(number)
                self._store(*(self._sums.add(number, values, alone) if self._keep[number] else ()))

    def _store(self, *found: tuple[int, Values]) -> None:
        self._caches.keep(self._index, self._call, found)

    def _reused(self, number: int) -> Values:
        cache, keys = self._caches[number], self._call.keys()
        values = cache.take(keys, self._call.timestep)
        if not self._listed[1][number]:
            cache.drop(keys)
        return values

    def _around(self, number: int) -> Around:
        return self._passing(number) if self._graph.caching == "difference" else self._returning(number)

    def _passing(self, number: int) -> Around:
        """A block whose difference to its inputs is cached; in a sum, the first block adds it and the others pass it on."""
        seen = self._seen

        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            states, kept = self._listed
            if states[number] == _REUSE:
                self._tally.add(number, _REUSE, self._call.rows)
                inputs = seen.inputs(number, args, kwargs)
                values = added(inputs, self._reused(number)) if self._sums.leads(number) else inputs
                return seen.output(number, values)
            if number in seen.unfit or (seen.knows(number) and not kept[number]):
                return self._tally.run(number, self._call.rows, inner, args, kwargs)
            copies = seen.enter(number, args, kwargs)
            output = self._tally.run(number, self._call.rows, inner, args, kwargs)
            self._gain(seen.leave(number, copies, output))
            return output

        return around

    def _returning(self, number: int) -> Around:
        """A block whose output is cached."""
        cache, own = self._caches[number], range(number, number + 1)

        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            states, kept = self._listed
            values = self._blank(own) if states[number] == _DEAD else None
            if states[number] == _REUSE:
                values = self._reused(number)
                self._tally.add(number, _REUSE, self._call.rows)
            if values is not None:
                return as_output(values, kwargs)
            output = self._tally.run(number, self._call.rows, inner, args, kwargs)
            values = as_values(output)
            if self._proof.gives(number, values, self._call.rows):
                cache.note(self._call, values)
                self._store(*([(number, values)] if kept[number] else ()))
            return output

        return around

    def _around_stage(self, blocks: range) -> Around:
        """A stage is left out where none of its blocks is consumed: it would join their blank values."""

        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            values = self._blank(blocks) if self._leaves_out(blocks) else None
            return inner(*args, **kwargs) if values is None else as_output(values, kwargs)

        return around

    def _blank(self, blocks: range) -> Values | None:
        """Count blocks that are dead, and stand in for the last one: the model may write to it. None before that one has run."""
        values = self._caches[blocks[-1]].blank(self._call)
        for number in blocks if values is not None else ():
            self._tally.add(number, _DEAD, self._call.rows)
        return values
