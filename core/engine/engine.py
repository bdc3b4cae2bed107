"""The engine that every host drives: runs begin and end, and each forward of the model is bracketed.

engine.begin(timesteps)          # optional: a list of the calls to come
with engine.call(Call(...)):     # around each forward
    model(...)
report = engine.end()
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..blocks import Family, KeyBias, Site, recognise, sites_of, unwrapped
from ..blocks.graph import BlockGraph
from ..plan.skips import SkipPlan, graph_of
from ..recipe import Recipe
from .attach import Tap
from .call import Call, Horizon
from .merge import MergePart, Observer
from .meter import Meter, Report
from .prune import PrunePart
from .session import Part, Session
from .skip import SkipPart

log = logging.getLogger("skipstone")


class Engine:
    """Runs a recipe on one model. Holds no tensors between runs; nested runs stack.

    key_bias: how this host's attention takes a bias on the key logits; the family's own way by default.
    observer: told of all pairs that are searched.
    Raises :class:`ModelError` when the model cannot be served.
    """

    def __init__(
        self, root: nn.Module, recipe: Recipe, key_bias: KeyBias | None = None, observer: Observer | None = None
    ) -> None:
        """Look the model over; nothing is changed."""
        self.family: Family = recognise(root)
        self.recipe = recipe
        self.report = Report()
        self._merge = recipe.merge if recipe.merge and not recipe.merge.neutral else None
        self._prune = recipe.prune if recipe.prune and not recipe.prune.neutral else None
        self._skip = recipe.skip if recipe.skip and not recipe.skip.neutral else None
        self._sites: list[Site] = sites_of(root, self.family) if self._merge or self._prune else []
        self._graph: BlockGraph | None = None
        if self._skip:
            self._graph = graph_of(self._skip, self.family, unwrapped(root))
        self._key_bias = key_bias or self.family.key_bias
        self._observer = observer
        self._tap = Tap(root)
        self._runs: list[Session] = []

    @property
    def running(self) -> Session | None:
        """The innermost run under way."""
        return self._runs[-1] if self._runs else None

    def begin(self, timesteps: Sequence[float] | None = None, train_steps: float = 1000.0) -> Session:
        """Begin a run. `timesteps`: one per call, in order, only where the host knows that these will be the calls."""
        known = tuple(timesteps) if timesteps is not None and len(timesteps) else None
        session = Session(Horizon(known, train_steps), self._parts)
        self._runs.append(session)
        return session

    def end(self) -> Report:
        """End the innermost run and free its state. Without a run, the last report again."""
        if self._runs:
            self.report = self._runs.pop().close()
            if self.report.calls and self.report.idle and not self.recipe.neutral:
                log.warning(self.report.summary())
        return self.report

    @contextmanager
    def run(self, timesteps: Sequence[float] | None = None, train_steps: float = 1000.0) -> Iterator[Session]:
        """:meth:`begin` and :meth:`end`, also when the run is cancelled or raises."""
        depth = len(self._runs)
        try:
            yield self.begin(timesteps, train_steps)
        finally:
            while len(self._runs) > depth:
                self.end()

    @contextmanager
    def call(self, call: Call) -> Iterator[None]:
        """Bracket one forward of the model. What the network itself returns is read at its root where that is needed."""
        session = self.running or self.begin()
        try:
            session.begin_call(call)
            if session.listens:
                self._tap.open()
            yield
        finally:
            session.end_call(self._tap.close())

    def _parts(self, horizon: Horizon, meter: Meter) -> list[Part]:
        """Skipping wraps merging and pruning: a block that is reused never asks for its tokens."""
        parts: list[Part] = []
        if self._merge:
            parts.append(MergePart(self._merge, self._sites, horizon, meter, self._key_bias, self._observer))
        if self._prune:
            parts.append(PrunePart(self._prune, self._sites, horizon, meter, self._key_bias, self._observer))
        if self._skip and self._graph:
            plan = SkipPlan(self._skip, self._graph, self.family.name, horizon.timesteps, horizon.train_steps)
            parts.append(SkipPart(plan, self._graph, meter))
        return parts
