"""One sampling run: its clock, its meter, and one part per mechanism. It dies with the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from .attach import Override, Overrides
from .call import Call, Horizon, raw_output
from .clock import Clock, Tick
from .meter import Meter, Report


class Part(Protocol):
    """One mechanism in one run."""

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""

    @property
    def evaluates(self) -> bool:
        """False when this forward is made of cached values alone, so that its output is no new evaluation."""

    def overrides(self) -> list[Override]:
        """What stands on the model during a forward that this part serves."""

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide a forward; False leaves it alone."""

    def end(self) -> None:
        """A forward is over, or failed. May come without a begin."""

    def close(self) -> None:
        """The run is over: tell the meter, forget all."""


@runtime_checkable
class Listener(Protocol):
    """A part that reads what the network returns."""

    def listen(self, output: Tensor) -> None:
        """The raw output of the forward that :meth:`Part.begin` decided, before guidance and denoising."""


class Session:
    """State of one run. Parts are installed in order, so that a later one wraps an earlier one on the same module."""

    def __init__(self, horizon: Horizon, parts: Callable[[Horizon, Meter], Sequence[Part]]) -> None:
        """Begin a run; the model is not touched before :meth:`begin_call`."""
        self.meter = Meter()
        self._clock = Clock(horizon.timesteps, horizon.train_steps)
        self._declined = 0
        self._parts = [(part, Overrides(part.overrides())) for part in parts(horizon, self.meter)]

    def begin_call(self, call: Call) -> None:
        """Before a forward: tick the clock, decide, install the overrides. Ctrl-C may have left those of the last one."""
        self._remove()
        tick = self._clock.tick(call.timestep, call.streams)
        self.meter.report.calls = tick.index + 1 + self._declined
        self.meter.report.planned = self._clock.planned
        for part, overrides in self._parts:
            if part.begin(tick, call):
                overrides.install()

    def decline_call(self, reason: str) -> None:
        """A forward that cannot be served at all: it is counted and runs dense."""
        self._declined += 1
        self.meter.report.calls += 1
        self.meter.decline("a whole call", reason)

    @property
    def listens(self) -> bool:
        """Does any part need the network's raw output?"""
        return any(isinstance(part, Listener) for part, _ in self._parts)

    def end_call(self, output: Any = None) -> None:
        """After a forward, also a failed one: take the overrides off and let go of its tensors. May be called twice.

        output: what the network returned; None where it failed.
        """
        self._remove()
        raw = raw_output(output) if all(part.evaluates for part, _ in self._parts) else None
        for part, _ in self._parts:
            if raw is not None and isinstance(part, Listener):
                part.listen(raw)
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
