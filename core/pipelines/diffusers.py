"""diffusers pipelines as a host: where a run's calls are read from, and how its end is noticed.

Nothing of diffusers is imported: what is used (`scheduler.timesteps`, `progress_bar`, `maybe_free_model_hooks`) is common
to all its pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from torch import Tensor


class PipelineSchedule:
    """Reads a run's calls from the pipeline's scheduler, whichever that is at the time.

    diffusers' schedulers list one timestep per evaluation, also those of second order, and make a new tensor per run.
    """

    def __init__(self, pipeline: Any) -> None:
        """pipeline: anything with a `scheduler`."""
        self._pipeline = pipeline
        self._read_of: object = None
        self._values: list[float] = []

    @property
    def train_steps(self) -> float:
        """Number of training timesteps of the scheduler."""
        return float(getattr(self._pipeline.scheduler.config, "num_train_timesteps", 1000))

    def token(self) -> object:
        """The scheduler's tensor of timesteps: a new object for each run."""
        return getattr(self._pipeline.scheduler, "timesteps", None)

    def timesteps(self) -> list[float]:
        """All timesteps of the schedule; waits for the device once per run."""
        token = self.token()
        if token is not self._read_of:
            self._read_of = token
            self._values = [float(t) for t in token.tolist()] if isinstance(token, Tensor) else []
        return self._values

    def value(self, timestep: Any) -> float | None:
        """The value of a timestep that is a view of the schedule, found by its place: no wait for the device."""
        place = self._place(timestep)
        return None if place is None else self.timesteps()[place]

    def calls_from(self, timestep: Any, value: float) -> list[float] | None:
        """Timesteps of the calls to come from this one on, by its place (second-order schedules repeat timesteps) or value."""
        values, place = self.timesteps(), self._place(timestep)
        if place is None and value in values:
            place = values.index(value)
        return None if place is None else values[place:]

    def _place(self, timestep: Any) -> int | None:
        token = self.token()
        if not isinstance(timestep, Tensor) or not isinstance(token, Tensor) or not timestep.numel():
            return None
        if timestep.untyped_storage().data_ptr() != token.untyped_storage().data_ptr():
            return None
        place = int(timestep.storage_offset() - token.storage_offset())
        return place if 0 <= place < len(self.timesteps()) else None


def watch_end(pipeline: Any, on_end: Callable[[], Any]) -> Callable[[], None]:
    """Call `on_end` when a pipeline's run ends, is cancelled or raises. Returns what takes the watch off again."""
    watched = [
        _wrapped(pipeline, "progress_bar", lambda inner: lambda *a, **k: _Bar(inner(*a, **k), on_end)),
        _wrapped(pipeline, "maybe_free_model_hooks", lambda inner: lambda *a, **k: (on_end(), inner(*a, **k))[1]),
    ]

    def remove() -> None:
        for undo in watched:
            undo()

    return remove


def _wrapped(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Callable[[], None]:
    """Set an instance attribute over a method; the returned function puts back what was there."""
    inner = getattr(owner, name, None)
    if inner is None:
        return lambda: None
    before = owner.__dict__.get(name)
    ours = wrap(inner)
    owner.__dict__[name] = ours

    def undo() -> None:
        if owner.__dict__.get(name) is ours:
            if before is None:
                del owner.__dict__[name]
            else:
                owner.__dict__[name] = before

    return undo


class _Bar:
    """A progress bar, used as context or iterated, that tells when it is left."""

    def __init__(self, bar: Any, on_end: Callable[[], Any]) -> None:
        self._bar = bar
        self._on_end = on_end

    def __enter__(self) -> Any:
        return self._bar.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> Any:
        self._on_end()
        return self._bar.__exit__(kind, error, tb)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._bar
        finally:
            self._on_end()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)
