"""One sampling run: its clock, its meter, and one part per mechanism. It dies with the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from threading import Event
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..errors import Decline, SkipstoneError
from ..plan.run import Horizon
from .call import Call, raw_output
from .clock import Clock, Tick
from .override import Override, Overrides
from .report import Meter, Report
from .trails import Trails

log = logging.getLogger("skipstone")

_LOST_PLAN = (
    "call {call} came at timestep {timestep:g}, which was not announced: from there on, calls are found by timestep"
)
_LONGEST = 160


class Part(Protocol):
    """One mechanism in one run."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""

    @property
    def evaluates(self) -> bool:
        """False when this forward is made of cached values alone, so that its output is no new evaluation."""

    @property
    def plain_serves(self) -> bool:
        """Can a module run plain in the middle of this forward? Not where its inputs may have been left out."""

    def overrides(self) -> list[Override]:
        """What stands on the model during a forward that this part serves."""

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide a forward; False leaves it alone."""

    def end(self) -> None:
        """A forward is over, or failed. May come without a begin."""

    def forget(self, keys: Sequence[Hashable]) -> None:
        """These streams (:meth:`.call.Call.keys`) have left the run: free what is kept of them."""

    def close(self) -> None:
        """The run is over: report what was done, and free everything."""


Maker = Callable[[Horizon, Meter], Part]
"""Makes the part of one run."""


@runtime_checkable
class Listener(Protocol):
    """A part that reads what the network returns."""

    def listen(self, output: Tensor) -> None:
        """The raw output of the forward that :meth:`Part.begin` decided, before guidance and denoising."""


class Session:
    """State of one run. Parts are installed in order, so that a later one wraps an earlier one on the same module."""

    def __init__(self, horizon: Horizon, makers: Iterable[Maker]) -> None:
        """Begin a run; the model is not touched before :meth:`enter`."""
        self.meter = Meter()
        self.idle = Event()
        self.idle.set()
        self._clock = Clock(horizon.timesteps, horizon.train_steps)
        self._trails = Trails()
        self._declined = 0
        self._failed = False
        parts = [make(horizon, self.meter) for make in makers]
        self._parts = [(part, self._overrides(part)) for part in parts]

    def enter(self, call: Call) -> None:
        r"""Before a forward: tick the clock, decide, install the overrides. What fails is :meth:`refuse`\ d."""
        self._remove()
        if self._failed:
            return self._count_declined()
        before = self.meter.report.calls
        try:
            self._begin(call)
        except Exception as error:
            self._remove()
            self._declined -= self.meter.report.calls > before
            self.meter.report.calls = before
            self.refuse(error)

    def refuse(self, error: Exception) -> None:
        """A forward runs unaccelerated because of this error; the picture goes on.

        After an unexpected error of ours so does the rest of the run, and the log has the traceback.
        """
        if isinstance(error, (Decline, SkipstoneError)):
            return self.decline_call(str(error))
        self._fail(error)
        self._count_declined()

    def decline_call(self, reason: str) -> None:
        """A forward that cannot be served at all: it is counted and runs unaccelerated."""
        self._remove()
        self._count_declined()
        self.meter.decline("calls", reason)

    @property
    def listens(self) -> bool:
        """Does any part need the network's raw output?"""
        return any(isinstance(part, Listener) for part, _ in self._parts)

    def leave(self, output: Any = None) -> None:
        """After a forward, also a failed one: take the overrides off and let go of its tensors. May be called twice.

        output: what the network returned; None where it failed.
        """
        self._remove()
        try:
            self._end(output)
        except Exception as fault:
            self._fail(fault)
        self.idle.set()

    def close(self) -> Report:
        """End the run: nothing is kept but the report."""
        parts, self._parts = self._parts, []
        for part, overrides in reversed(parts):
            overrides.discard()
            part.close()
        self._trails.clear()
        self.idle.set()
        return self.meter.finish()

    def _overrides(self, part: Part) -> Overrides:
        overrides = part.overrides()
        for override in overrides:
            override.guard(lambda fault: self._fail(fault) or part.plain_serves)
        return Overrides(overrides)

    def _begin(self, call: Call) -> None:
        tick = self._clock.tick(call.timestep, call.streams)
        call = self._trails.resolve(call, tick.index)
        self.meter.report.calls = tick.index + 1 + self._declined
        self.meter.report.planned = self._clock.planned
        if tick.surprise:
            self.meter.note(_LOST_PLAN.format(call=tick.index, timestep=call.timestep))
        if tick.new:
            self._forget(self._trails.lost(tick.index - 1))
        self.idle.clear()
        for part, overrides in self._parts:
            if part.begin(tick, call):
                overrides.install()

    def _count_declined(self) -> None:
        self._declined += 1
        self.meter.report.calls += 1

    def _end(self, output: Any) -> None:
        raw = raw_output(output) if all(part.evaluates for part, _ in self._parts) else None
        for part, _ in self._parts:
            if raw is not None and isinstance(part, Listener):
                part.listen(raw)
            part.end()
        self.meter.keep_cache(sum(part.nbytes for part, _ in self._parts))

    def _forget(self, keys: Sequence[Hashable]) -> None:
        for part, _ in self._parts if keys else ():
            part.forget(keys)

    def _fail(self, fault: Exception) -> None:
        """The one policy for unexpected errors of ours. A forward under way goes on as decided: its later modules may build
        on values that were left out."""
        if self._failed:
            return
        self._failed = True
        self.meter.note(f"the rest of the run was not accelerated: {_one_line(fault)} (traceback in the log)")
        log.error("Skipstone stopped serving this run; the picture goes on unaccelerated", exc_info=fault)

    def _remove(self) -> None:
        for _, overrides in reversed(self._parts):
            overrides.remove()


def _one_line(fault: Exception) -> str:
    """Type and message of an error in one short line."""
    text = " ".join(f"{type(fault).__name__}: {fault}".split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
