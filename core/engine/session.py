"""One sampling run: its clock, its meter, and one part per method. It ends with the run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from threading import Event
from typing import Any

from ..errors import Decline, SkipstoneError
from ..plan.run import Horizon
from ..recipe.recipe import Method
from .call import Call, raw_output
from .call_skipping import CallSkipping
from .clock import Clock, Tick
from .meter import Meter
from .override import Overrides
from .part import Listener, Maker, Part
from .report import Report
from .trails import Trails

_LOST_PLAN = "call {call} has timestep {timestep:g}, which was not announced: calls are found by timestep from there on"


Skipping = Callable[[Horizon, Meter], CallSkipping | None]
"""(horizon, meter) -> call skipping of one run; None where it does not fit."""


class Session:
    """The state of one run.

    Parts are installed in order, so that a later one wraps an earlier one on the same module.

    Args:
        horizon: what is known of the run.
        makers: one per part (:func:`skipstone.core.engine.parts.makers`).
        skipping: makes call skipping, which acts above all parts; None without it.

    Example:
        >>> from skipstone.core.engine.clock import Stream
        >>> session = Session(Horizon(), [])
        >>> session.enter(Call(999.0, (8, 8), (Stream("cond", 1),)))  # before a forward
        >>> session.leave()  # after it
        >>> session.close().calls
        1
    """

    def __init__(self, horizon: Horizon, makers: Iterable[Maker], skipping: Skipping | None = None) -> None:
        """Begin a run; the model is not changed before :meth:`enter`."""
        self.meter = Meter()
        self._answers = False
        self.idle = Event()
        self.idle.set()
        self._clock = self._running = Clock(horizon.timesteps, horizon.train_steps)
        self._skipping = skipping(horizon, self.meter) if skipping else None
        if self._skipping is not None:  # parts act as if skipped calls were not there
            horizon = self._skipping.horizon_of_runs
            self._running = Clock(horizon.timesteps, horizon.train_steps)
        self._horizon_of_runs = horizon
        self._steps: dict[int, int] = {}
        self._trails = Trails()
        self._declined = 0
        self._level: float | None = None
        self._waiting: tuple[Tick, Call] | None = None
        self._failed = False
        added = self._skipping.makers if self._skipping else ()
        parts = [make(horizon, self.meter) for make in (*makers, *added)]
        self._parts = [(part, self._overrides(part)) for part in parts]

    @property
    def surprises(self) -> dict[int, float]:
        """Step -> one-call error of call skipping (:class:`.call_skipping.CallSkipping`)."""
        return self._skipping.surprises if self._skipping else {}

    @property
    def beside(self) -> tuple[Method, ...]:
        """Methods that the choice of calls adds at the calls that run."""
        return self._skipping.beside if self._skipping else ()

    @property
    def horizon_of_runs(self) -> Horizon:
        """What is known ahead of the forwards that run, for engines that act below this one."""
        return self._horizon_of_runs

    def forecast_or_none(self) -> Any:
        """Return the output of the forward that was entered if the plan skips it; None if it must run."""
        if not self._answers or self._skipping is None:
            return None
        try:
            return self._skipping.forecast()
        except Exception as fault:
            self._answers = False
            self._skipping.failed()
            self._fail(fault)
            return None

    def enter(self, call: Call, parts: bool = True) -> None:
        """Prepare a forward: find its call, decide it, and install the overrides. Errors go to :meth:`refuse`.

        Args:
            call: the forward.
            parts: whether the parts begin now. False leaves that to :meth:`begin_parts`, for a forward whose blocks first run on
                something else.
        """
        self._remove()
        self._answers = False
        self._waiting = None
        if self._failed:
            return self._count_declined()
        before = self.meter.report.calls
        try:
            self._begin(call)
            if parts:
                self._begin_parts()
        except Exception as error:
            self._remove()
            # `refuse` counts the call; take back what `_begin` counted.
            self._declined -= self.meter.report.calls > before
            self.meter.report.calls = before
            self.refuse(error)

    def begin_parts(self) -> None:
        """Begin the parts of a forward that was entered without them; once. If that fails, they run unaccelerated."""
        try:
            self._begin_parts()
        except (Decline, SkipstoneError) as error:
            self.decline_call(str(error), self._level)
        except Exception as fault:
            self._remove()
            self._fail(fault)

    def refuse(self, error: Exception) -> None:
        """Run a forward unaccelerated because of an error.

        After an unexpected error, the rest of the run is unaccelerated too, and the traceback is logged.
        """
        if isinstance(error, (Decline, SkipstoneError)):
            return self.decline_call(str(error), getattr(error, "timestep", None))
        self._fail(error)
        self._count_declined()

    def decline_call(self, reason: str, timestep: float | None = None) -> None:
        """Count a forward that cannot be served, and run it unaccelerated.

        Args:
            reason: one line for the report.
            timestep: of the forward, if known. One at the timestep of the forward before is no further call.
        """
        self._remove()
        if timestep is None or timestep != self._level:
            self._count_declined()
        self._level = timestep
        self.meter.decline("calls", reason)

    @property
    def listens(self) -> bool:
        """Whether any part needs the network's raw output."""
        return any(isinstance(part, Listener) for part, _ in self._parts)

    def leave(self, output: Any = None) -> Any:
        """Remove the overrides after a forward, complete or failed, and release its tensors. It may be called twice.

        Args:
            output: what the network returned; None if it failed.

        Returns:
            What the sampler gets in place of the output, in the same form; None for the output itself.
        """
        self._remove()
        corrected = None
        try:
            corrected = self._end(output)
        except Exception as fault:
            self._fail(fault)
        self._answers, self._waiting = False, None
        self.idle.set()
        return corrected

    def close(self) -> Report:
        """End the run, free its state and return the report."""
        parts, self._parts = self._parts, []
        for part, overrides in reversed(parts):
            overrides.discard()
            part.close()
        if self._skipping is not None:
            self._skipping.close()
        self._trails.clear()
        self.idle.set()
        return self.meter.finish()

    def _overrides(self, part: Part) -> Overrides:
        def survives(fault: Exception) -> bool:
            self._fail(fault)
            return part.plain_serves

        overrides = part.overrides()
        for override in overrides:
            override.guard(survives)
        return Overrides(overrides)

    def _begin(self, call: Call) -> None:
        tick = self._clock.tick(call.timestep, call.streams)
        self._level = call.timestep
        streams, call = call.streams, self._trails.resolve(call, tick.index)
        self.meter.report.calls = tick.index + 1 + self._declined
        self.meter.report.planned = self._clock.planned
        if tick.surprise:
            self.meter.note(_LOST_PLAN.format(call=tick.index, timestep=call.timestep))
        if tick.new:
            self._forget(self._trails.lost(tick.index - 1))
        self.idle.clear()
        if self._skipping is not None:
            self._answers = not self._skipping.begin(tick, call)
            self.meter.report.calls = self._skipping.calls + self._declined
            if self._answers:
                return
            tick = self._running.tick(call.timestep, streams)
            call = replace(
                call, step=self._steps.setdefault(call.step, len(self._steps)) if call.step is not None else None
            )
        self._waiting = tick, call

    def _begin_parts(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None:
            return
        tick, call = waiting
        for part, overrides in self._parts:
            if part.begin(tick, call):
                overrides.install()

    def _count_declined(self) -> None:
        self._declined += 1
        self.meter.report.calls += 1

    def _end(self, output: Any) -> Any:
        if self._answers:
            return None
        corrected = self._skipping.keep(output) if self._skipping is not None and not self._failed else None
        raw = raw_output(output) if all(part.evaluates for part, _ in self._parts) else None
        for part, _ in self._parts:
            if raw is not None and isinstance(part, Listener):
                part.listen(raw)
            part.end()
        own = self._skipping.nbytes if self._skipping is not None else 0
        self.meter.keep_cache(own + sum(part.nbytes for part, _ in self._parts))
        return corrected

    def _forget(self, keys: Sequence[Hashable]) -> None:
        for part, _ in self._parts if keys else ():
            part.forget(keys)
        if self._skipping is not None and keys:
            self._skipping.forget(keys)

    def _fail(self, fault: Exception) -> None:
        """Stop accelerating after an unexpected error: the one policy for all of them.

        A forward under way goes on as decided, because its later modules may depend on values that were left out.
        """
        if self._failed:
            return
        self._failed = True
        self.meter.fail(fault)

    def _remove(self) -> None:
        for _, overrides in reversed(self._parts):
            overrides.remove()
