"""One sampling run: its clock, its meter, and one part per mechanism. It dies with the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .attach import Override, Overrides
from .call import Call, Horizon
from .clock import Clock, Tick
from .meter import Meter, Report


class Part(Protocol):
    """One mechanism in one run."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""

    def overrides(self) -> list[Override]:
        """What stands on the model during a forward that this part serves."""

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide a forward; False leaves it alone."""

    def end(self) -> None:
        """A forward is over, or failed. May come without a begin."""

    def close(self) -> None:
        """The run is over: tell the meter, forget all."""


class Session:
    """State of one run. Parts are installed in order, so that a later one wraps an earlier one on the same module."""

    def __init__(self, horizon: Horizon, parts: Callable[[Horizon, Meter], Sequence[Part]]) -> None:
        """Begin a run; the model is not touched before :meth:`begin_call`."""
        self.meter = Meter()
        self._clock = Clock(horizon.timesteps, horizon.train_steps)
        self._parts = [(part, Overrides(part.overrides())) for part in parts(horizon, self.meter)]

    def begin_call(self, call: Call) -> None:
        """Before a forward: tick the clock, decide, install the overrides. Ctrl-C may have left those of the last one."""
        self._remove()
        tick = self._clock.tick(call.timestep, call.streams)
        self.meter.report.calls = tick.index + 1
        self.meter.report.planned = self._clock.planned
        for part, overrides in self._parts:
            if part.begin(tick, call):
                overrides.install()

    def decline_call(self, reason: str) -> None:
        """A forward that cannot be served at all: it is counted and runs dense."""
        self.meter.report.calls += 1
        self.meter.decline("a whole call", reason)

    def end_call(self) -> None:
        """After a forward, also a failed one: take the overrides off and let go of its tensors. May be called twice."""
        self._remove()
        for part, _ in self._parts:
            part.end()
        self.meter.keep_cache(sum(part.nbytes for part, _ in self._parts))

    def close(self) -> Report:
        """End the run: nothing is kept but the report."""
        self._remove()
        for part, _ in self._parts:
            part.close()
        self._parts = []
        return self.meter.finish()

    def _remove(self) -> None:
        for _, overrides in reversed(self._parts):
            overrides.remove()
