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

from ..blocks import Family, KeyBias, recognise, sites_of
from ..recipe import Recipe, TokenMerge
from .meter import Report
from .session import Call, Observer, Session

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
        self._settings = recipe.merge or TokenMerge(threshold=1.0)
        self._sites = sites_of(root, self.family) if not recipe.neutral else []
        self._key_bias = key_bias or self.family.key_bias
        self._observer = observer
        self._runs: list[Session] = []

    @property
    def running(self) -> Session | None:
        """The innermost run under way."""
        return self._runs[-1] if self._runs else None

    def begin(self, timesteps: Sequence[float] | None = None, train_steps: float = 1000.0) -> Session:
        """Begin a run. `timesteps`: one per call, in order, only where the host knows that these will be the calls."""
        session = Session(self._settings, self._sites, timesteps, train_steps, self._key_bias, self._observer)
        self._runs.append(session)
        return session

    def end(self) -> Report:
        """End the innermost run and free its state. Without a run, the last report again."""
        if self._runs:
            self.report = self._runs.pop().close()
            if self.report.calls and not self.report.served and not self.recipe.neutral:
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
        """Bracket one forward of the model."""
        session = self.running or self.begin()
        try:
            session.begin_call(call)
            yield
        finally:
            session.end_call()
