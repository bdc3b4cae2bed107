"""The engine that every host drives: runs begin and end, and each forward of the model is bracketed.

engine.begin(timesteps)          # optional: a list of the calls to come
with engine.call(Call(...)):     # around each forward
    model(...)
report = engine.end()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import current_thread
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import Decline
from ..models import KeyBias
from ..plan.run import Horizon
from ..recipe.recipe import Recipe
from .call import Call
from .network import Network
from .override import Tap
from .parts import makers
from .report import Report
from .session import Session
from .token_part import Observer

log = logging.getLogger("skipstone")

_PATIENCE = 60.0
"""Seconds that the removal of a handle waits for another thread's forward."""


class Engine:
    """Runs a recipe on one model. Holds no tensors between runs; nested runs stack.

    key_bias: how this host's attention takes a bias on the key logits; the family's own way by default.
    observer: called with all pairs that are searched. threads: each thread has runs of its own, as where nobody says which
        run a forward belongs to; else a run may go through several threads.
    Raises :class:`ModelError` when the model cannot be served.
    """

    def __init__(
        self,
        root: nn.Module,
        recipe: Recipe,
        key_bias: KeyBias | None = None,
        observer: Observer | None = None,
        threads: bool = False,
    ) -> None:
        """Look the model over; nothing is changed."""
        network = Network.of(root, key_bias, observer)
        self.family = network.family
        self.recipe = recipe
        self.report = Report()
        self._makers = makers(recipe.methods, network)
        self._tap = Tap(root)
        self._root = root
        self._threads = threads
        self._runs: WeakKeyDictionary[object, list[Session]] = WeakKeyDictionary()

    @property
    def running(self) -> Session | None:
        """The innermost run under way."""
        runs = self._stack
        return runs[-1] if runs else None

    @property
    def _stack(self) -> list[Session]:
        """The runs under way, innermost last."""
        return self._runs.setdefault(current_thread() if self._threads else self, [])

    def begin(self, timesteps: Sequence[float] | None = None, train_steps: float = 1000.0, stages: int = 1) -> Session:
        """Begin a run. `timesteps`: one per call, in order, only where the host knows that these will be the calls.

        stages: calls in each step of the sampler, where the calls are known (:class:`.call.Horizon`).
        """
        known = tuple(timesteps) if timesteps is not None and len(timesteps) else None
        session = Session(Horizon(known, train_steps, stages), self._makers)
        self._stack.append(session)
        return session

    def end(self) -> Report:
        """End the innermost run and free its state. Without a run, the last report again."""
        with suppress(IndexError):
            self._close(self._stack.pop())
        return self.report

    def end_all(self) -> Report:
        """End the runs of all threads, each after the forward that it may be in, and return the last report."""
        for runs in list(self._runs.values()):
            while runs:
                session = runs[-1]
                if runs is not self._stack:
                    session.idle.wait(_PATIENCE)
                with suppress(ValueError):  # the other thread may have ended it
                    runs.remove(session)
                    self._close(session)
        return self.report

    @contextmanager
    def run(self, timesteps: Sequence[float] | None = None, train_steps: float = 1000.0) -> Iterator[Session]:
        """:meth:`begin` and :meth:`end`, also when the run is cancelled or raises."""
        depth = len(self._stack)
        try:
            yield self.begin(timesteps, train_steps)
        finally:
            while len(self._stack) > depth:
                self.end()

    def enter(self, read: Callable[[], Call]) -> Session:
        """Before a forward. read: makes the call of what the host says; it may begin a run, or raise :class:`Decline`.

        Never raises: what cannot be served, or fails, runs unaccelerated, and the report has the reason.
        """
        try:
            call = self._without_gradients(read())
            session = self.running or self.begin()
        except Exception as error:
            session = self.running or self._begin_plain()
            session.refuse(error)
        else:
            session.enter(call)
        return session

    @contextmanager
    def call(self, call: Call | Callable[[], Call]) -> Iterator[None]:
        """Bracket one forward of the model. What the network itself returns is read at its root where that is needed.

        call: what the host says of it, or what makes that, as in :meth:`enter`.
        """
        session = self.enter(call if callable(call) else lambda: call)
        try:
            if session.listens:
                self._tap.open()
            yield
        finally:
            session.leave(self._tap.close())

    def _begin_plain(self) -> Session:
        """A run in which nothing is served."""
        session = Session(Horizon(), [])
        self._stack.append(session)
        return session

    def _without_gradients(self, call: Call) -> Call:
        """The call. Raises :class:`Decline` where gradients are wanted: cached values have none."""
        if torch.is_grad_enabled():
            wanted = call.input is not None and call.input.requires_grad
            if wanted or any(p.requires_grad for p in self._root.parameters()):
                raise Decline("gradients are enabled: sample under torch.no_grad() to accelerate")
        return call

    def _close(self, session: Session) -> None:
        self.report = session.close()
        if self.report.calls and self.report.idle and not self.recipe.neutral:
            log.warning("Skipstone: %s", "; ".join(self.report.lines()))
