"""The entry point for diffusers users: `accelerate(model_or_pipeline, recipe) -> Handle`."""

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
from ..core.engine.kernel import SDPA
from ..core.engine.merge import Observer
from ..core.engine.override import override_in
from ..core.engine.report import Report
from ..core.engine.root_hooks import RootHooks
from ..core.forecast.space import Noise
from ..core.recipe.auto import Auto
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.presets import as_recipe
from ..core.recipe.recipe import Method, Recipe
from .cache_context import Context, ContextWatch, refuse_beside_cache
from .late_control import LateControl, resolved
from .network import network_of
from .packed_rows import PackedRows, stacked
from .run_watch import RunWatch, Seen
from .schedule import PipelineSchedule, PipelineWatch
from .streams import Labels
from .time_unit import UNITS, TimeUnit, unit_of


def accelerate(
    target: Any, recipe: Recipe | Method | str | Path | dict[str, Any] = "ca_tome", observer: Observer | None = None
) -> Handle:
    """Accelerate a model or diffusers pipeline until the handle is removed.

    Accelerating a model again replaces the earlier recipe. A neutral recipe changes nothing.

    Args:
        target: a U-Net or transformer (`nn.Module`), or a diffusers pipeline with one as `unet` or `transformer`.
        recipe: a speed-up such as "2x", a :class:`Recipe`, the settings of one method (:class:`CallSkip`,
            :class:`TokenMerge`, :class:`TokenPrune`, :class:`BlockSkip`), the name of a preset, the path of a JSON file, or a
            recipe as a dict.
        observer: called with all pairs that are searched, for calibration.

    Returns:
        A :class:`Handle`, also usable as a context manager.

    Raises :class:`RecipeError` for a recipe that makes no sense, :class:`ModelError` for a model that cannot be served.

    Example:
        >>> import torch
        >>> from diffusers import DiTTransformer2DModel
        >>> from skipstone import BlockSkip
        >>> model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8)
        >>> latent, label = torch.ones(1, 4, 8, 8), torch.tensor([1])
        >>> with torch.no_grad(), accelerate(model.eval(), BlockSkip(rule="interval", every=2)) as handle:
        ...     outputs = [model(latent, timestep=torch.tensor([t]), class_labels=label) for t in (999, 500, 0)]
        >>> handle.report().headline().split(",")[0]
        'ran 8 of 12 blocks in 3 calls'
    """
    wanted = as_recipe(recipe)
    root = network_of(target)
    refuse_beside_cache(root)
    return replacing(root, lambda: Handle(root, wanted, None if target is root else target, observer))


def replacing(root: nn.Module, make: Callable[[], Handle]) -> Handle:
    """Return a new handle on a network, in place of those on it.

    Args:
        root: the network.
        make: makes the handle.

    Example:
        >>> from diffusers import UNet2DModel
        >>> kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
        >>> network = UNet2DModel(layers_per_block=1, **kinds)
        >>> replacing(network, lambda: Handle(network, as_recipe("2x"))).recipe.name
        '2x'
    """
    for earlier in _handles_on(root):
        earlier.remove()
    return make()


class Handle:
    """An accelerated model or pipeline, with its report.

    Runs of a pipeline begin and end by themselves. On a bare model, and in other pipelines with the same model, a run begins
    at the first forward and whenever the timesteps start over; :meth:`begin` and :meth:`end` mark it explicitly. Each
    thread has its own runs.

    Args:
        root: the U-Net or transformer.
        recipe: the methods to run.
        pipeline: the diffusers pipeline that draws with it, if any.
        observer: called with all pairs that are searched.
        context: what is stated about this thread's forward; read from the network's `cache_context` by default.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> handle = accelerate(DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2))
        >>> handle.recipe.name, handle.report().summary()
        ('ca_tome', 'no run yet')
        >>> handle.remove().calls
        0
    """

    def __init__(
        self,
        root: nn.Module,
        recipe: Recipe,
        pipeline: Any = None,
        observer: Observer | None = None,
        context: Callable[[], Context] | None = None,
    ) -> None:
        """Install. Use :func:`accelerate`."""
        self.engine = Engine(root, recipe, observer=observer, threads=True, kernels=SDPA)
        self._root = root
        self._context = context or Context
        self._schedule: PipelineSchedule | None = None
        family = self.engine.family
        self._units = UNITS if family.time_scale is None else (TimeUnit(family.time_scale),)
        self._threads: WeakKeyDictionary[Thread, RunWatch] = WeakKeyDictionary()
        self._rows = PackedRows(root)
        self._removed = False
        self._removers: list[Callable[[], None]] = [] if recipe.neutral else self._install(root, pipeline)

    @property
    def recipe(self) -> Recipe:
        """The recipe in use."""
        return self.engine.recipe

    def report(self) -> Report:
        """Return the report of this thread's run under way, or of the last run."""
        running = self.engine.running
        return running.meter.finish() if running else self.engine.report

    def chosen(self) -> Recipe | None:
        """Return what Auto or call skipping chose for the last run, as a recipe to save; None if no call was skipped."""
        found = self.report().chosen
        if not found:
            return None
        rest = [m for m in self.recipe.methods if m.kind not in (Auto.kind, CallSkip.kind) and not m.neutral]
        return Recipe.of([*rest, *Recipe.of_plain([*self.report().beside, found]).methods], self.recipe.name)

    def begin(self, timesteps: Sequence[float] | None = None, train_steps: float = 1000.0) -> None:
        """Begin a run of a bare model by hand; an earlier run ends.

        Args:
            timesteps: training timestep of each call, if they are known.
            train_steps: number of training timesteps.
        """
        self.end()
        self._watch.by_hand = True
        self.engine.begin(timesteps, train_steps)

    def end(self) -> Report:
        """End the run under way, free its state and return its report."""
        self._threads.pop(current_thread(), None)
        return self.engine.end()

    def remove(self) -> Report:
        """Restore the model, and return the last report. It may be called twice.

        Runs of other threads end after their forward under way, and continue unaccelerated.
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
        """The run watch of this thread."""
        thread = current_thread()
        if thread not in self._threads:
            self._threads[thread] = RunWatch(Labels(partial(self._orphaned, get_ident())))
        return self._threads[thread]

    def _install(self, root: nn.Module, pipeline: Any) -> list[Callable[[], None]]:
        overrides = self.engine.family.calls_forward or self.engine.skips_calls
        hooks = RootHooks(root, self._before, self._after, overrides)
        removers = [hooks.remove]
        if self._context is Context:
            self._context = contexts = ContextWatch(root)
            removers.append(contexts.remove)
        if getattr(pipeline, "scheduler", None) is not None:
            watch = PipelineWatch(pipeline, self.end, hooks.restore)
            self._schedule = PipelineSchedule(pipeline, watch)
            removers.append(watch.remove)
        if self.engine.skips_calls and isinstance(control := getattr(pipeline, "controlnet", None), nn.Module):
            removers.append(LateControl(control).remove)
        return removers

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Prepare a forward; returns its output if it is skipped."""
        if self._removed:
            return None
        answer = self.engine.enter(lambda: self._call(args, kwargs)).forecast_or_none()
        if answer is None:
            kwargs.update(resolved(kwargs))
        return answer

    def _after(self, output: Any) -> Any:
        return self.engine.running.leave(output) if self.engine.running else None

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """Return a forward as the engine takes it; begins a new run if this forward starts one. Raises :class:`Decline`."""
        refuse_beside_cache(self._root)
        inputs, context = self.engine.family.inputs(args, kwargs), self._context()
        latent = stacked(inputs.latent)
        now = self._seen(latent, inputs.timestep if context.timestep is None else context.timestep)
        begins = not self._watch.by_hand and (self.engine.running is None or self._watch.begins_another(now))
        if begins:
            self.end()
        self._watch.note(now)
        streams = self._watch.labels.label(now.timestep, inputs.conditioning, latent.shape[0], context.name)
        if begins:
            self._begin(now, context)
        step = context.step_index if now.found is None else None
        packed = self._packed(args, kwargs, latent)
        noise = self._noise(now, context)
        return Call(
            now.timestep, now.latent, streams, input=latent, step=step, noise=noise, packed=packed, given=inputs.latent
        )

    def _seen(self, latent: Tensor, timestep: Any) -> Seen:
        found = self._schedule.find(timestep, self._units) if self._schedule else None
        value = found.value if found else self._training_timestep(one_timestep(timestep))
        return Seen(value, latent, found)

    def _training_timestep(self, argument: float) -> float:
        """Return the training timestep of a forward outside a schedule. A network's first one decides on its unit."""
        if len(self._units) > 1:
            self._units = (unit_of(argument),)
        return self._units[0].timestep(argument)

    def _noise(self, now: Seen, context: Context) -> Noise | None:
        if not self.engine.skips_calls:
            return None
        return self._schedule.noise(now.found) if self._schedule and now.found else context.noise

    def _packed(self, args: tuple[Any, ...], kwargs: dict[str, Any], latent: Tensor) -> tuple[int, int, int] | None:
        """Return frames, rows and columns of a packed latent, where tokens are merged or pruned."""
        return self._rows.of(args, kwargs) if latent.ndim == 3 and self.engine.has_parts else None

    def _begin(self, now: Seen, context: Context) -> None:
        if self._schedule is None or now.found is None:
            self.engine.begin(steps=context.num_inference_steps)
            return
        self.engine.start(self._schedule.horizon_from(now.found))

    def _orphaned(self, thread: int) -> None:
        """End a thread's run when its conditionings were freed: an unwatched pipeline has returned.

        Garbage collection may notice this in another thread. Then this thread's next run ends the old one.
        """
        if thread != get_ident():
            return
        running, last = self.engine.running, self._watch.last
        watched = self._watch.by_hand or (last is not None and last.found is not None and last.found.watched)
        if running and running.idle.is_set() and not watched:
            self.end()


def _handles_on(root: nn.Module) -> list[Handle]:
    """Return the handles whose hooks or override are on the module."""
    own = override_in(root)
    standing = [*root._forward_pre_hooks.values(), own.around if own else None]
    hooks = [owner for hook in standing if isinstance(owner := getattr(hook, "__self__", None), RootHooks)]
    owners = [getattr(one.before, "__self__", None) for one in hooks]
    return [owner for owner in owners if isinstance(owner, Handle)]
