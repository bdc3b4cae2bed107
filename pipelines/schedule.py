"""diffusers pipelines as a host: where a run's calls are read from, and how its beginning and end are noticed.

Nothing of diffusers is imported: what is used (`scheduler.timesteps`, `progress_bar`, `maybe_free_model_hooks`) is common
to all its pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread, current_thread
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from ..core.engine.call import one_timestep
from ..core.engine.copies import copied_without, without_attribute

_ROUNDED = 3e-3
"""A timestep may differ from the schedule's by this share: bf16 keeps 8 bits of it."""


@dataclass(frozen=True)
class Found:
    """A forward's timestep in a schedule: its value in training timesteps, its place in the list, and the run it belongs to.

    watched: the run's end will be noticed, as it is the pipeline that draws.
    """

    value: float
    place: int
    token: object
    watched: bool


class PipelineSchedule:
    """Reads a run's calls from the pipeline's scheduler, whichever that is at the time.

    diffusers' schedulers list one timestep per evaluation, also those of second order, and make a new tensor per run.
    """

    def __init__(self, pipeline: Any, watch: PipelineWatch | None = None) -> None:
        """pipeline: anything with a `scheduler`. watch: says when it draws."""
        self._pipeline, self._watch = pipeline, watch
        self._read_of: object = None
        self._values: list[float] = []

    @property
    def train_steps(self) -> float:
        """Number of training timesteps of the scheduler."""
        return float(getattr(self._pipeline.scheduler.config, "num_train_timesteps", 1000))

    @property
    def _listed(self) -> object:
        return getattr(self._pipeline.scheduler, "timesteps", None)

    def timesteps(self) -> list[float]:
        """All timesteps of the schedule."""
        return self._read(self._listed)

    def find(self, timestep: Any, scale: float) -> Found | None:
        """The schedule's entry that a forward's timestep argument is; None for one that is not of this pipeline.

        scale: what turns the argument into a training timestep. A view of the schedule is found by its place, without
        waiting for the device; other arguments by value, while the pipeline is drawing in this thread.
        """
        listed, drawing = self._listed, self._watch.run if self._watch else None
        values = self._read(listed)
        place = _place(timestep, listed, len(values))
        if place is None and drawing is not None and values:
            place = self._nearest(one_timestep(timestep) * scale)
        return None if place is None else Found(values[place], place, drawing or listed, drawing is not None)

    def calls_from(self, found: Found) -> tuple[list[float], int]:
        """Timesteps of the calls to come from this one on, and how many of them make a step of the sampler."""
        stages = int(getattr(self._pipeline.scheduler, "order", 1) or 1)
        return self._values[found.place :], stages if found.place % stages == 0 else 1

    def _read(self, listed: Any) -> list[float]:
        """All timesteps of the schedule; waits for the device once for each list."""
        if listed is not self._read_of:
            self._read_of = listed
            self._values = [float(t) for t in listed.tolist()] if isinstance(listed, Tensor) else []
        return self._values

    def _nearest(self, value: float) -> int | None:
        distances = [abs(v - value) for v in self._values]
        place = min(range(len(distances)), key=distances.__getitem__)
        return place if distances[place] <= _ROUNDED * self.train_steps else None


def _place(timestep: Any, listed: Any, length: int) -> int | None:
    """The place of a timestep that is a view of the list."""
    if not isinstance(timestep, Tensor) or not isinstance(listed, Tensor) or not timestep.numel():
        return None
    if any(timestep.stride()) and timestep.numel() > 1:
        return None
    if timestep.untyped_storage().data_ptr() != listed.untyped_storage().data_ptr():
        return None
    place = int(timestep.storage_offset() - listed.storage_offset())
    return place if 0 <= place < length else None


class PipelineWatch:
    """Notices a pipeline's runs: they begin with its progress bar, and end with it, also when cancelled or failed.

    on_end: called at the end of each run.
    """

    def __init__(self, pipeline: Any, on_end: Callable[[], Any]) -> None:
        """Watch until :meth:`remove`."""
        self._on_end = on_end
        self._runs: WeakKeyDictionary[Thread, object] = WeakKeyDictionary()
        before, ours = dict(pipeline.__dict__), {"progress_bar": self._bar, _FREE: self._freeing}
        self._undo = [_wrapped(pipeline, name, wrap) for name, wrap in ours.items()]
        changed = [without_attribute(pipeline, name, before) for name in ours if name in pipeline.__dict__]
        self._undo.append(copied_without(pipeline, *changed))

    @property
    def run(self) -> object | None:
        """The run that the pipeline is drawing in this thread, an object of its own for each; None between runs."""
        return self._runs.get(current_thread())

    def remove(self) -> None:
        """Take the watch off."""
        for undo in self._undo:
            undo()
        self._undo = []

    def ended(self) -> None:
        """The pipeline's loop is over."""
        self._runs.pop(current_thread(), None)
        self._on_end()

    def _bar(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def progress_bar(*args: Any, **kwargs: Any) -> Any:
            self._runs[current_thread()] = object()
            return _Bar(inner(*args, **kwargs), self.ended)

        return progress_bar

    def _freeing(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def maybe_free_model_hooks(*args: Any, **kwargs: Any) -> Any:
            self.ended()
            return inner(*args, **kwargs)

        return maybe_free_model_hooks


_FREE = "maybe_free_model_hooks"


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
