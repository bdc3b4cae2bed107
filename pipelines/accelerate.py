"""The one verb of the library: `accelerate(model_or_pipeline, recipe) -> Handle`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Thread, current_thread, get_ident
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..core.engine.call import Call, one_timestep
from ..core.engine.engine import Engine
from ..core.engine.merge import Observer
from ..core.engine.override import override_in
from ..core.engine.report import Report
from ..core.engine.root_hooks import RootHooks
from ..core.errors import Decline, ModelError
from ..core.models import Inputs
from ..core.recipe.presets import as_recipe
from ..core.recipe.recipe import Method, Recipe
from .run_watch import RunWatch, Schedule, Seen
from .schedule import PipelineSchedule, PipelineWatch
from .streams import Labels


def accelerate(
    target: Any, recipe: Recipe | Method | str | Path | dict[str, Any] = "ca_tome", observer: Observer | None = None
) -> Handle:
    """Make a model or diffusers pipeline faster until the handle is removed.

    Accelerating a model again replaces what was there. A neutral recipe changes nothing on the model.

    Args:
        target: a U-Net or transformer (`nn.Module`), or a diffusers pipeline that has one as `unet` or `transformer`.
        recipe: a :class:`Recipe`, one method's settings (:class:`TokenMerge`, :class:`TokenPrune`, :class:`BlockSkip`), a
            preset's name, a JSON file's path, or a recipe dict.
        observer: called with all pairs that are searched (calibration).

    Returns a :class:`Handle`, which is also a context manager. Raises :class:`RecipeError` or :class:`ModelError`, in one line
    with the remedy.

    Example:
        >>> import torch
        >>> from diffusers import UNet2DModel
        >>> from skipstone import BlockSkip
        >>> network = UNet2DModel(16, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> with torch.no_grad(), accelerate(network, BlockSkip(rule="interval", every=2)) as handle:
        ...     handle.begin([900, 600, 300, 0])
        ...     for timestep in (900, 600, 300, 0):
        ...         noise = network(torch.zeros(1, 3, 16, 16), timestep).sample
        ...     handle.report().headline()
        'ran 16 of 32 blocks in 4 calls, saved 50% of their multiply-adds'
    """
    wanted = as_recipe(recipe)
    root = network_of(target)
    for earlier in _handles_on(root):
        earlier.remove()
    return Handle(root, wanted, None if target is root else target, observer)


class Handle:
    """What :func:`accelerate` installed on a model: reports what was done, and removes it.

    On a pipeline, runs begin and end by themselves. On a bare model, and in other pipelines over the same model, a run begins
    at the first forward and whenever the timesteps start over; :meth:`begin` and :meth:`end` mark it explicitly. Threads have
    runs of their own.

    Args:
        root: the network.
        recipe: what to do.
        pipeline: the diffusers pipeline whose schedule and progress bar mark its runs; None for a bare network.
        observer: called with all pairs that are searched.

    Example:
        >>> from diffusers import UNet2DModel
        >>> from skipstone import BlockSkip
        >>> network = UNet2DModel(16, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
        >>> handle = accelerate(network, BlockSkip(rule="interval", every=2))
        >>> handle.recipe.skip.every
        2
        >>> handle.remove().summary()
        'no run yet'
    """

    def __init__(self, root: nn.Module, recipe: Recipe, pipeline: Any = None, observer: Observer | None = None) -> None:
        """Install. Use :func:`accelerate`."""
        self.engine = Engine(root, recipe, observer=observer, threads=True)
        self._schedule: Schedule | None = None
        self._threads: WeakKeyDictionary[Thread, RunWatch] = WeakKeyDictionary()
        self._removed = False
        self._removers: list[Callable[[], None]] = [] if recipe.neutral else self._install(root, pipeline)

    @property
    def recipe(self) -> Recipe:
        """The recipe in force."""
        return self.engine.recipe

    def report(self) -> Report:
        """What was done in this thread's current run, or in the last one when none is under way."""
        running = self.engine.running
        return running.meter.finish() if running else self.engine.report

    def begin(self, timesteps: Sequence[float] | None = None, train_steps: float = 1000.0) -> None:
        """Begin a run of a bare model by hand. The run before it ends.

        Args:
            timesteps: training timestep of each call, in order, where they are known.
            train_steps: length of the training range.
        """
        self.end()
        self._watch.by_hand = True
        self.engine.begin(timesteps, train_steps)

    def end(self) -> Report:
        """End the run under way, free its state, and return its report."""
        self._threads.pop(current_thread(), None)
        return self.engine.end()

    def remove(self) -> Report:
        """Take everything off the model, which is then as it was before. May be called twice.

        Runs of other threads end after the forward that they are in, and go on unaccelerated.
        """
        self._removed = True
        report = self.engine.end_all()
        for remover in reversed(self._removers):
            remover()
        self._removers = []
        self._threads.clear()
        return report

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    @property
    def _watch(self) -> RunWatch:
        """This thread's."""
        thread = current_thread()
        if thread not in self._threads:
            self._threads[thread] = RunWatch(Labels(partial(self._orphaned, get_ident())))
        return self._threads[thread]

    def _install(self, root: nn.Module, pipeline: Any) -> list[Callable[[], None]]:
        removers = [RootHooks(root, self._before, self._after, self.engine.family.calls_forward).remove]
        if getattr(pipeline, "scheduler", None) is not None:
            watch = PipelineWatch(pipeline, self.end)
            self._schedule = PipelineSchedule(pipeline, watch)
            removers.append(watch.remove)
        return removers

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._removed:
            self.engine.enter(lambda: self._call(args, kwargs))

    def _after(self, output: Any) -> None:
        if self.engine.running:
            self.engine.running.leave(output)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """A forward as the engine sees it; begins another run where this forward does. Raises :class:`Decline`."""
        inputs = self.engine.family.inputs(args, kwargs)
        now = self._seen(inputs)
        begins = not self._watch.by_hand and (self.engine.running is None or self._watch.begins_another(now))
        if begins:
            self.end()
        self._watch.note(now)
        streams = self._watch.labels.label(now.timestep, inputs.conditioning, inputs.latent.shape[0])
        if begins:
            self._begin(now)
        return Call(now.timestep, now.latent, streams, input=inputs.latent)

    def _seen(self, inputs: Inputs) -> Seen:
        latent, scale = _latent(inputs.latent), self.engine.family.time_scale
        found = self._schedule.find(inputs.timestep, scale) if self._schedule else None
        timestep = found.value if found else one_timestep(inputs.timestep) * scale
        return Seen(timestep, inputs.latent, latent, found)

    def _begin(self, now: Seen) -> None:
        if self._schedule is None or now.found is None:
            self.engine.begin()
        else:
            calls, stages = self._schedule.calls_from(now.found)
            self.engine.begin(calls, self._schedule.train_steps, stages)

    def _orphaned(self, thread: int) -> None:
        """The conditionings of a thread's run are gone: a pipeline that is not watched has returned.

        Garbage collection may find that out in another thread; then the next run of this one ends it.
        """
        if thread != get_ident():
            return
        running, last = self.engine.running, self._watch.last
        watched = self._watch.by_hand or (last is not None and last.found is not None and last.found.watched)
        if running and running.idle.is_set() and not watched:
            self.end()


def _latent(value: Any) -> tuple[int, ...]:
    """The size of a latent [B, C, ...], or the number of tokens of a packed one [B, N, C]."""
    if not isinstance(value, Tensor) or value.ndim < 3:
        raise Decline("its input is no latent")
    return tuple(value.shape[2:]) if value.ndim > 3 else (value.shape[1],)


def network_of(target: Any) -> nn.Module:
    """A model itself, or a pipeline's `unet` or `transformer`. Raises :class:`ModelError` where there is none."""
    if isinstance(target, nn.Module):
        return target
    for name in ("unet", "transformer"):
        if isinstance(getattr(target, name, None), nn.Module):
            return getattr(target, name)
    raise ModelError(f"{type(target).__name__} is no model and has no unet or transformer: give one that has")


def _handles_on(root: nn.Module) -> list[Handle]:
    """Handles whose hooks or override stand on the module."""
    own = override_in(root)
    standing = [*root._forward_pre_hooks.values(), own.around if own else None]
    hooks = [owner for hook in standing if isinstance(owner := getattr(hook, "__self__", None), RootHooks)]
    owners = [getattr(one.before, "__self__", None) for one in hooks]
    return [owner for owner in owners if isinstance(owner, Handle)]
