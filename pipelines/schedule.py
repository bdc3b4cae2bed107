"""diffusers pipelines as a host: finds the calls of a run, and its beginning and end.

diffusers is not imported. The attributes used here (`scheduler.timesteps`, `progress_bar`, `maybe_free_model_hooks`) are
common to all its pipelines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from threading import Thread, current_thread
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from ..core.engine.call import one_timestep
from ..core.engine.copies import copied_without, without_attribute
from ..core.forecast.space import Noise
from ..core.plan.run import Horizon
from .noise import horizon_of, noise_at
from .time_unit import UNITS, TimeUnit, place_of

_ROUNDED = 5e-3
"""Share of the training range by which a timestep may differ from the schedule's: bf16 keeps 8 bits, and pipelines round twice."""


@dataclass(frozen=True)
class ScheduledCall:
    """A forward's place in a pipeline's schedule.

    Args:
        value: training timestep.
        place: index in the schedule.
        token: an object that identifies the run.
        watched: whether the pipeline itself draws, so that the end of the run is noticed.
        rising: whether the network's time runs from noise to picture.

    Example:
        >>> from types import SimpleNamespace
        >>> from diffusers import DDIMScheduler
        >>> scheduler = DDIMScheduler()
        >>> scheduler.set_timesteps(4)
        >>> call = PipelineSchedule(SimpleNamespace(scheduler=scheduler)).find(scheduler.timesteps[2])
        >>> call.value, call.place, call.watched
        (250.0, 2, False)
    """

    value: float
    place: int
    token: object
    watched: bool
    rising: bool = False


class PipelineSchedule:
    """Reads the calls of a run from the pipeline's current scheduler.

    diffusers' schedulers list one timestep per evaluation, second-order ones too, and make a new tensor for each run.

    Args:
        pipeline: anything with a `scheduler`.
        watch: notices the pipeline's runs.

    Example:
        >>> from types import SimpleNamespace
        >>> from diffusers import DDIMScheduler
        >>> scheduler = DDIMScheduler()
        >>> scheduler.set_timesteps(4)
        >>> schedule = PipelineSchedule(SimpleNamespace(scheduler=scheduler))
        >>> schedule.timesteps(), schedule.find(scheduler.timesteps[1]).place
        ([750.0, 500.0, 250.0, 0.0], 1)
    """

    def __init__(self, pipeline: Any, watch: PipelineWatch | None = None) -> None:
        """Prepare; nothing is read yet."""
        self._pipeline, self._watch = pipeline, watch
        self._read_of: object = None
        self._values: list[float] = []
        self._unit: tuple[object, tuple[TimeUnit, ...]] = (None, ())  # of the run's network

    @property
    def train_steps(self) -> float:
        """Number of training timesteps of the scheduler."""
        return float(getattr(self._pipeline.scheduler.config, "num_train_timesteps", 1000))

    @property
    def _listed(self) -> object:
        return getattr(self._pipeline.scheduler, "timesteps", None)

    def timesteps(self) -> list[float]:
        """Return all timesteps of the schedule."""
        return self._read(self._listed)

    def find(self, timestep: Any, units: tuple[TimeUnit, ...] = UNITS) -> ScheduledCall | None:
        """Return the schedule's entry for a forward's timestep; None for a timestep of another run.

        A view of the schedule is found by its place, without waiting for the device. Other arguments are found by value, while
        the pipeline is drawing in this thread.

        Args:
            timestep: the forward's argument.
            units: the units that it may have; the first call of a run decides.
        """
        listed, drawing = self._listed, self._watch.run if self._watch else None
        values = self._read(listed)
        place = _place(timestep, listed, len(values))
        if place is not None:
            return ScheduledCall(values[place], place, drawing or listed, drawing is not None)
        if drawing is None or not values:
            return None
        known = self._unit[1] if self._unit[0] is drawing else units
        found = place_of(one_timestep(timestep), known, values, self._reached, _ROUNDED * self.train_steps)
        if found is None:
            return None
        self._unit = drawing, (found[1],)
        return ScheduledCall(values[found[0]], found[0], drawing, watched=True, rising=found[1].rising)

    @property
    def _reached(self) -> int | None:
        """The place at which the scheduler stands, if it counts its steps."""
        scheduler = self._pipeline.scheduler
        step = getattr(scheduler, "step_index", None)
        return step if step is not None else getattr(scheduler, "begin_index", None)

    def noise(self, found: ScheduledCall) -> Noise | None:
        """Return the noise level of a call; None if the scheduler's levels are not known."""
        return noise_at(self._pipeline.scheduler, found.value, found.rising)

    def horizon_from(self, found: ScheduledCall) -> Horizon:
        """Return what is known of this call and those to come."""
        run = horizon_of(self._pipeline.scheduler, tuple(self._values[found.place :]))
        return run if found.place % run.stages == 0 else replace(run, stages=1)

    def _read(self, listed: Any) -> list[float]:
        """Return all timesteps of the schedule; waits for the device once per list."""
        if listed is not self._read_of:
            self._read_of = listed
            self._values = [float(t) for t in listed.tolist()] if isinstance(listed, Tensor) else []
        return self._values


def _place(timestep: Any, listed: Any, length: int) -> int | None:
    """Return the index of a timestep that is a view of the list, from its storage offset."""
    if not isinstance(timestep, Tensor) or not isinstance(listed, Tensor) or not timestep.numel():
        return None
    if any(timestep.stride()) and timestep.numel() > 1:
        return None
    if timestep.untyped_storage().data_ptr() != listed.untyped_storage().data_ptr():
        return None
    place = int(timestep.storage_offset() - listed.storage_offset())
    return place if 0 <= place < length else None


class PipelineWatch:
    """Notices the runs of a pipeline. They begin and end with its progress bar, also if cancelled or failed.

    Args:
        pipeline: a diffusers pipeline.
        on_end: called at the end of each run.
        on_begin: called at the beginning of each run: since the last one, hooks of offloaded models may have been renewed.

    Example:
        >>> class Pipe:
        ...     def progress_bar(self, steps):
        ...         return steps
        >>> pipe, ends = Pipe(), []
        >>> watch = PipelineWatch(pipe, lambda: ends.append("end"))
        >>> list(pipe.progress_bar([2, 1])), ends
        ([2, 1], ['end'])
        >>> watch.remove()
    """

    def __init__(self, pipeline: Any, on_end: Callable[[], Any], on_begin: Callable[[], Any] = lambda: None) -> None:
        """Watch until :meth:`remove`."""
        self._on_end, self._on_begin = on_end, on_begin
        self._runs: WeakKeyDictionary[Thread, object] = WeakKeyDictionary()
        before, ours = dict(pipeline.__dict__), {"progress_bar": self._bar, _FREE: self._freeing}
        self._undo = [wrapped(pipeline, name, wrap) for name, wrap in ours.items()]
        changed = [without_attribute(pipeline, name, before) for name in ours if name in pipeline.__dict__]
        self._undo.append(copied_without(pipeline, *changed))

    @property
    def run(self) -> object | None:
        """An object that identifies the run drawn in this thread; None between runs."""
        return self._runs.get(current_thread())

    def remove(self) -> None:
        """Stop watching, and restore the pipeline."""
        for undo in self._undo:
            undo()
        self._undo = []

    def ended(self) -> None:
        """End the run of this thread."""
        self._runs.pop(current_thread(), None)
        self._on_end()

    def _bar(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def progress_bar(*args: Any, **kwargs: Any) -> Any:
            self._runs[current_thread()] = object()
            self._on_begin()
            return _Bar(inner(*args, **kwargs), self.ended)

        return progress_bar

    def _freeing(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def maybe_free_model_hooks(*args: Any, **kwargs: Any) -> Any:
            self.ended()
            return inner(*args, **kwargs)

        return maybe_free_model_hooks


_FREE = "maybe_free_model_hooks"


def wrapped(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Callable[[], None]:
    """Set an instance attribute over a method, and return a function that restores what was there.

    Args:
        owner: the instance; one without this method stays as it is.
        name: of the method.
        wrap: makes the attribute of the method.

    Example:
        >>> from types import SimpleNamespace
        >>> owner = SimpleNamespace(two=lambda: 2)
        >>> undo = wrapped(owner, "two", lambda two: lambda: -two())
        >>> owner.two(), undo(), owner.two()
        (-2, None, 2)
    """
    inner = getattr(owner, name, None)
    if inner is None:
        return lambda: None
    before = owner.__dict__.get(name)  # set by another tool on the instance; None: the class's own method
    ours = wrap(inner)
    owner.__dict__[name] = ours

    def undo() -> None:
        if owner.__dict__.get(name) is ours:  # else another tool wrapped it since, and ours must stay below
            if before is None:
                del owner.__dict__[name]
            else:
                owner.__dict__[name] = before

    return undo


class _Bar:
    """A progress bar, used as context manager or iterated, that calls `on_end` when it is left."""

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
