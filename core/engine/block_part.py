"""Block skipping in one run: at each call a block runs, returns its cached output, or is dead.

Caches are kept per stream, and only while a later call reads them. A forward with a stream that lacks a cache runs in full.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from ..forecast.predictors import PREDICTORS
from ..measure.macs import CostProbe
from ..models import unwrapped
from ..models.graph import BlockGraph
from ..models.readers import Watch, foreign_hook
from ..plan.block_plan import BlockPlan, graph_of
from ..plan.liveness import State
from ..recipe.block_skip import BlockSkip
from .block_value import Values, added, as_output, as_values, carried, subtracted
from .cache import BlockCache
from .call import Call
from .clock import Tick
from .meter import Meter
from .network import Network
from .override import Around, Override
from .proof import Proof
from .report import shortened
from .session import Maker

_NO_CALL = Call(0.0, (0, 0), ())


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
        >>> part.begin(Tick(0, new=True), _NO_CALL), part.evaluates, part.nbytes
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
        settings = plan.settings
        predictor = PREDICTORS[settings.predictor] if settings.forecast else None
        self._caches = [BlockCache(settings.offload, predictor) for _ in graph.blocks]
        # This forward's row, and which values to keep for later calls.
        self._full = np.full(len(graph), State.RUN, dtype=np.int8)
        self._row, self._keep = self._full, np.ones(len(graph), dtype=bool)
        self._call, self._index = _NO_CALL, -1
        self._due = np.zeros(len(graph), dtype=np.int64)  # the call of each block's last run; older values are stale
        self._cost: list[int | None] = [None] * len(graph)
        self._rows = 0
        self._proof = Proof(graph)
        self._probe: CostProbe | None = None
        self._read: dict[int, str] = {}
        self._limit = plan.settings.memory_budget * 2**20 or float("inf")  # bytes
        self.peak = 0
        self.counts = np.zeros(len(State), dtype=np.int64)
        self.macs = np.zeros(len(State), dtype=np.int64)
        self._reported = self.counts.copy(), self.macs.copy()

    def overrides(self) -> list[Override]:
        """Return one override per block."""
        return [Override(b.module, self._around(i)) for i, b in enumerate(self._graph.blocks)]

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
        self._note(*self._plan.notes)
        # Sizes, costs and what other code reads are known in two parts: before the first call, and after it.
        if tick.new and tick.index < 2:
            self._read_from_outside(tick.index)
        if tick.new and tick.index == 1:
            self._budget()
        self._unhook()
        if tick.index == 0:
            self._proof.open()
        self._rows += call.rows if tick.index == 0 else 0
        self._call, keys = call, call.keys()
        self._row, self._keep = self._plan.row(tick.index, call.timestep, call.last, call.step, call.input)
        self._index = tick.index
        self._due[self._row == State.RUN] = tick.index
        reused = np.flatnonzero(self._row == State.REUSE)
        # Decided for the whole forward: running one block in place of its cache would give it inputs of dead blocks.
        if tick.surprise or not all(self._caches[i].has(keys, self._due[i]) for i in reused):
            self._row = self._full
        # Free values before their blocks run again; a forecast still needs the old value.
        renewed = (self._row == State.RUN) & (not self._plan.settings.forecast)
        self._drop(renewed | ((self._row != State.REUSE) & ~self._keep))
        return True

    def end(self) -> None:
        """Free what no later call reads, and report the counts so far."""
        self._drop(~self._keep)
        if self._proof.close():
            self._refuse()
        self._call = _NO_CALL
        self._report()

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the caches of streams that left the run."""
        for cache in self._caches:
            cache.drop(tuple(keys))

    def close(self) -> None:
        """Report the counts, and free everything."""
        self._unhook()
        self._report()
        for cache in self._caches:
            cache.clear()
        self._caches = []

    @property
    def nbytes(self) -> int:
        """Memory held by caches, in bytes."""
        return sum(c.nbytes for c in self._caches)

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
        if self._probe is not None:
            self._probe.close()

    def _drop(self, blocks: np.ndarray) -> None:
        for i in np.flatnonzero(blocks):
            self._caches[i].drop(self._call.keys())

    def _read_from_outside(self, index: int) -> None:
        """Run the blocks that other code reads at every call.

        Blocks with foreign hooks are found before the first call, attentions that store values after it.
        """
        if index == 0:
            found = ((i, foreign_hook(b.module)) for i, b in enumerate(self._graph.blocks))
            self._read = {i: reader for i, reader in found if reader}
        self._plan.run_always(self._read)
        for reader in sorted(set(self._read.values())):
            names = shortened([self._graph.blocks[i].name for i, r in self._read.items() if r == reader])
            self._meter.note(f"runs at every call because {reader} reads it: {names}")

    def _refuse(self) -> None:
        """Stop skipping: the first call did not match the graph, so the rest of the run is unaccelerated."""
        self._drop(np.ones(len(self._graph), dtype=bool))
        self.counts[:] = self.macs[:] = 0
        self._meter.decline("block skipping", self._proof.failure)

    def _budget(self) -> None:
        """Apply the memory budget after the first call, when sizes and costs are known."""
        sizes = np.array([c.bytes_per_row() * self._rows for c in self._caches], dtype=np.int64)
        self._note(self._plan.fit(sizes, np.array([c or 0 for c in self._cost]), self._limit))

    def _note(self, *notes: str) -> None:
        """Add these lines to the report; empty ones are left out."""
        for note in notes:
            if note:
                self._meter.note(note)

    def _report(self) -> None:
        """Add what was counted since the last report to the meter."""
        counts, macs = self.counts - self._reported[0], self.macs - self._reported[1]
        run, reused, dead = (int(counts[s]) for s in (State.RUN, State.REUSE, State.DEAD))
        self._meter.count_blocks(run, reused, dead, int(macs[State.RUN]), int(macs.sum()))
        self._meter.keep_cache(self.peak)
        self._reported = self.counts.copy(), self.macs.copy()

    def _store(self, number: int, values: Values) -> None:
        """Cache a value if it fits the budget. A later call that lacks it runs in full."""
        self._caches[number].keep(self._index, self._call, values)
        held = self.nbytes
        if held > self._limit:
            self._caches[number].drop(self._call.keys())
        else:
            self.peak = max(self.peak, held)

    def _reused(self, number: int) -> Values:
        cache, keys = self._caches[number], self._call.keys()
        values = cache.take(keys, self._call.timestep)
        if not self._keep[number]:
            cache.drop(keys)
        return values

    def _around(self, number: int) -> Around:
        cache, block = self._caches[number], self._graph.blocks[number]
        difference = self._graph.caching == "branch" and bool(block.carries)

        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            state = State(self._row[number])
            values = self._reused(number) if state == State.REUSE else None
            if state == State.DEAD:  # never consumed, but the model's own code may still write to it
                values = cache.blank(self._call.rows)
            if values is not None:
                self._count(number, state)
            if values is None and not self._proof.takes(block, args, kwargs):
                return inner(*args, **kwargs)
            inputs = carried(block, args, kwargs) if difference else None
            if values is not None:
                return as_output(added(inputs, values) if inputs else values, kwargs)
            before = tuple(v.clone() for v in inputs) if inputs else None  # the block may change its inputs in place
            output = self._probed(number, inner, args, kwargs)
            values = as_values(output)
            if not self._proof.gives(block, values, self._call.rows):
                return output
            cache.note(values)
            if self._keep[number]:
                self._store(number, subtracted(values, before) if before else values)
            return output

        return around

    def _probed(self, number: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block. Its first run in the session measures its cost per row."""
        if self._cost[number] is None:
            watch = Watch(self._graph.blocks[number].module, args, kwargs)
            self._probe = CostProbe(self._graph.blocks[number].module)
            with self._probe as probe:
                output = inner(*args, **kwargs)
            self._cost[number] = probe.macs // max(1, self._call.rows)
            if reader := watch.stores():
                self._read.setdefault(number, reader)
        else:
            output = inner(*args, **kwargs)
        self._count(number, State.RUN)
        return output

    def _count(self, number: int, state: State) -> None:
        self.counts[state] += 1
        self.macs[state] += (self._cost[number] or 0) * self._call.rows
