"""The engine that every host drives: it begins and ends runs, and brackets each forward of the model.

engine.begin(timesteps)          # optional: the timesteps of the calls to come
with engine.call(Call(...)):     # around each forward
    model(...)
report = engine.end()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import current_thread
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import Decline, SkipstoneError
from ..models import KeyBias
from ..models.family import identity
from ..plan.call_choice import Choice, choose_calls
from ..plan.run import Horizon
from ..recipe.auto import Auto
from ..recipe.call_skip import CallSkip
from ..recipe.recipe import Method, Recipe
from ..recipe.token_merge import TokenMerge
from ..recipe.token_prune import TokenPrune
from .call import Call
from .call_skipping import CallSkipping
from .kernel import KernelHost
from .kernel_sites import kernels_of
from .meter import Meter
from .network import Network
from .override import Tap
from .part import Maker
from .parts import makers
from .report import Report
from .session import Session
from .token_part import Observer

log = logging.getLogger("skipstone")

_PATIENCE = 60.0
"""Seconds to wait for another thread's forward when all runs are ended."""


class Engine:
    """Runs a recipe on one model. It holds no tensors between runs; nested runs stack.

    Args:
        root: the U-Net or transformer.
        recipe: the methods to run.
        key_bias: how the host's attention takes a bias on the key logits; the family's own way by default.
        observer: called with all pairs that are searched.
        below: methods of the engines that act below this one, which also act by what Auto adds (:attr:`Session.beside`);
            None if there are no such engines.
        threads: give each thread its own runs, for hosts that cannot name the run of a forward. Otherwise a run may move
            between threads.
        kernels: how the host's attention kernels are reached, to merge and prune tokens in joint and rotary attention; None if
            they are not.

    Attributes:
        reaches_kernels: whether tokens are merged or pruned inside the calls of attention kernels, so that a host whose
            kernels are not PyTorch's must bring them into reach.

    Raises :class:`ModelError` for a model that cannot be served.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> from skipstone.core.engine.clock import Stream
        >>> from skipstone.core.recipe.block_skip import BlockSkip
        >>> model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8)
        >>> engine, label = Engine(model.eval(), Recipe.of([BlockSkip(rule="interval", every=2)])), torch.tensor([1])
        >>> with torch.no_grad(), engine.run((999.0, 500.0, 0.0)):
        ...     for t in (999, 500, 0):
        ...         with engine.call(Call(float(t), (8, 8), (Stream("cond", 1),))):
        ...             output = model(torch.zeros(1, 4, 8, 8), timestep=torch.tensor([t]), class_labels=label)
        >>> engine.report.headline().split(",")[0]
        'ran 8 of 12 blocks in 3 calls'
    """

    def __init__(
        self,
        root: nn.Module,
        recipe: Recipe,
        key_bias: KeyBias | None = None,
        observer: Observer | None = None,
        threads: bool = False,
        below: Sequence[Method] | None = None,
        kernels: KernelHost | None = None,
    ) -> None:
        """Recognise the model; nothing is changed on it."""
        parts = [method for method in recipe.methods if not isinstance(method, (CallSkip, Auto))]
        network = Network.of(root, key_bias, observer, anything=not parts, kernels=kernels)
        self.family = network.family
        self.recipe = recipe
        self.report = Report()
        self._makers = makers(parts, network)
        self._alone = all(method.neutral for method in (*parts, *(below or ())))
        self._adds, self._key_bias, self._kernels = below is None, key_bias, kernels
        tokens = any(isinstance(m, (TokenMerge, TokenPrune)) and not m.neutral for m in parts)
        self.reaches_kernels = tokens and kernels_of(network) is not None
        whole = [method for method in (recipe.calls, recipe.auto) if method and not method.neutral]
        self._calls = whole[0] if whole else None
        self._identity = identity(root) if self._calls and self._calls.profile else ""
        self._tap = Tap(root)
        self._root = root
        self._threads = threads
        self._runs: WeakKeyDictionary[object, list[Session]] = WeakKeyDictionary()

    @property
    def running(self) -> Session | None:
        """The innermost run under way; None between runs."""
        runs = self._stack
        return runs[-1] if runs else None

    @property
    def _stack(self) -> list[Session]:
        """This thread's runs under way, innermost last."""
        return self._runs.setdefault(current_thread() if self._threads else self, [])

    @property
    def skips_calls(self) -> bool:
        """Whether whole forwards may be skipped, so that the host must use :meth:`forward`."""
        return self._calls is not None

    @property
    def has_parts(self) -> bool:
        """Whether any method acts within the network, at the calls that run."""
        return bool(self._makers) or bool(self._calls and self._calls.profile)

    def _skipping(self, horizon: Horizon, meter: Meter) -> CallSkipping | None:
        """Return call skipping for one run; None without it. What does not fit the run goes to the report."""
        if self._calls is None:
            return None
        try:
            choice = choose_calls(self._calls, horizon, self._identity, self._alone)
            return CallSkipping(choice, horizon, meter, self._root, self._added(choice))
        except SkipstoneError as error:
            meter.decline("call skipping", str(error))
            return None

    def _added(self, choice: Choice) -> list[Maker]:
        """Return what makes the parts that were chosen with the calls. Raises :class:`SkipstoneError`."""
        if not choice.beside or not self._adds:
            return []
        return makers(choice.beside, Network.of(self._root, self._key_bias, kernels=self._kernels))

    def begin(
        self,
        timesteps: Sequence[float] | None = None,
        train_steps: float = 1000.0,
        stages: int = 1,
        steps: int | None = None,
    ) -> Session:
        """Begin a run of a sampler of which nothing is known but its calls; else see :meth:`start`.

        Args:
            timesteps: training timestep of each call, in order; None if the host does not know them for certain.
            train_steps: number of training timesteps.
            stages: calls per sampler step, when the calls are known (:class:`skipstone.core.plan.run.Horizon`).
            steps: number of sampler steps, if it is known without the calls.
        """
        return self.start(Horizon(tuple(timesteps or ()), train_steps, stages, steps))

    def start(self, horizon: Horizon) -> Session:
        """Begin a run.

        Args:
            horizon: what is known of it ahead.
        """
        session = Session(replace(horizon, timesteps=horizon.timesteps or None), self._makers, self._skipping)
        self._stack.append(session)
        return session

    def end(self) -> Report:
        """End the innermost run, free its state and return its report. Without a run, return the last report."""
        with suppress(IndexError):
            self._close(self._stack.pop())
        return self.report

    def end_all(self) -> Report:
        """End the runs of all threads, each after its forward under way, and return the last report."""
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
        """Bracket a run: :meth:`begin`, and :meth:`end` even if the run is cancelled or raises.

        Args:
            timesteps: training timestep of each call, in order; None if the host does not know them for certain.
            train_steps: number of training timesteps.
        """
        depth = len(self._stack)
        try:
            yield self.begin(timesteps, train_steps)
        finally:
            while len(self._stack) > depth:
                self.end()

    def enter(self, read: Callable[[], Call], parts: bool = True) -> Session:
        """Prepare the model for a forward. Never raises: what cannot be served, or fails, runs unaccelerated and is reported.

        Args:
            read: returns the call; it may begin a run, or raise :class:`Decline`.
            parts: whether the parts begin now; if not, at :meth:`Session.begin_parts`.

        Returns:
            The session, whose :meth:`Session.leave` must follow the forward.
        """
        try:
            call = self._without_gradients(read())
            session = self.running or self.begin()
        except Exception as error:
            session = self.running or self._begin_plain()
            session.refuse(error)
        else:
            session.enter(call, parts)
        return session

    def forward(self, read: Callable[[], Call], run: Callable[[], Any]) -> Any:
        """Run one forward of the model, or return the forecast of its output where the plan skips it. What ran may be corrected for
        what was missed before.

        Args:
            read: as in :meth:`enter`.
            run: runs the model.
        """
        session = self.enter(read)
        output = corrected = None
        try:
            answer = session.forecast_or_none()
            if answer is None:
                output = answer = run()
        finally:
            corrected = session.leave(output)
        return answer if corrected is None else corrected

    @contextmanager
    def call(self, call: Call | Callable[[], Call]) -> Iterator[None]:
        """Bracket one forward of the model. Where a part needs the network's raw output, it is read at the root.

        Args:
            call: the forward, or a function that returns it as in :meth:`enter`.
        """
        session = self.enter(call if callable(call) else lambda: call)
        try:
            if session.listens:
                self._tap.open()
            yield
        finally:
            session.leave(self._tap.close())

    def _begin_plain(self) -> Session:
        """Begin a run in which nothing is accelerated."""
        session = Session(Horizon(), [])
        self._stack.append(session)
        return session

    def _without_gradients(self, call: Call) -> Call:
        """Return the call. Raises :class:`Decline` if gradients are needed: cached values have none."""
        if torch.is_grad_enabled():
            wanted = call.input is not None and call.input.requires_grad
            if wanted or any(p.requires_grad for p in self._root.parameters()):
                raise Decline("gradients are enabled: sample under torch.no_grad() to accelerate")
        return call

    def _close(self, session: Session) -> None:
        self.report = session.close()
        if self.report.calls and self.report.idle and not self.recipe.neutral:
            log.warning("Skipstone: %s", "; ".join(self.report.lines()))
