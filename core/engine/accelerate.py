"""The one verb of the library: `accelerate(model_or_pipeline, recipe) -> Handle`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from torch import Tensor, nn

from ..blocks import Inputs
from ..errors import Decline, ModelError
from ..recipe import Method, Recipe, as_recipe
from .attach import Override
from .call import Call
from .engine import Engine
from .labels import Labels
from .merge import Observer
from .meter import Report


class Schedule(Protocol):
    """Where a pipeline's calls can be read from (:class:`skipstone.core.pipelines.diffusers.PipelineSchedule`)."""

    @property
    def train_steps(self) -> float:
        """Number of training timesteps."""

    def token(self) -> object:
        """An object that is another one whenever a new run begins."""

    def calls_from(self, timestep: Any, value: float) -> list[float] | None:
        """Timesteps of the calls to come from this one on, None where it is not of the schedule."""

    def value(self, timestep: Any) -> float | None:
        """A timestep's value without waiting for the device, where that is possible."""


def accelerate(
    target: Any, recipe: Recipe | Method | str | Path | dict[str, Any] = "ca_tome", observer: Observer | None = None
) -> Handle:
    """Make a model or diffusers pipeline faster until the handle is removed.

    target: a U-Net or transformer (`nn.Module`), or a diffusers pipeline that has one as `unet` or `transformer`.
    recipe: a :class:`Recipe`, one method's settings (:class:`TokenMerge`, :class:`TokenPrune`, :class:`BlockSkip`), a preset
        name, a JSON file's path or a recipe dict.
    observer: told of all pairs that are searched (calibration).

    Returns a :class:`Handle`, also usable as a context manager. Accelerating the same model again replaces what was
    there. A neutral recipe touches nothing. Raises :class:`RecipeError` or :class:`ModelError` with the remedy.
    """
    wanted = as_recipe(recipe)
    root = _network(target)
    for earlier in _handles_on(root):
        earlier.remove()
    return Handle(root, wanted, None if target is root else target, observer)


@dataclass(frozen=True)
class _Seen:
    """What tells one run from the next: the schedule's token (without one, a timestep that rises), the latent's size.

    Where intermediate evaluations and rounding meet (KDPM2), timesteps rise by less than a thousandth.
    """

    timestep: float = float("inf")
    latent: tuple[int, ...] | None = None
    token: object = None

    def follows_not(self, before: _Seen) -> bool:
        rises = self.token is None and self.timestep > before.timestep * 1.001
        return rises or self.token is not before.token or self.latent != before.latent


class Handle:
    """What :func:`accelerate` installed on a model: read its report, remove it.

    On a pipeline, runs begin and end by themselves. On a bare model a run begins at the first forward and whenever the
    timestep rises or the latent's size changes; :meth:`begin` and :meth:`end` say it explicitly.
    """

    def __init__(self, root: nn.Module, recipe: Recipe, pipeline: Any = None, observer: Observer | None = None) -> None:
        """Install. Use :func:`accelerate`."""
        self.engine = Engine(root, recipe, observer=observer)
        self._schedule = _schedule(pipeline)
        self._by_hand = False
        self._labels = Labels()
        self._seen = _Seen()
        self._removers: list[Callable[[], None]] = [] if recipe.neutral else self._install(root, pipeline)

    @property
    def recipe(self) -> Recipe:
        """The recipe in force."""
        return self.engine.recipe

    def report(self) -> Report:
        """What was done in the current run, or in the last one when none is under way."""
        running = self.engine.running
        return running.meter.finish() if running else self.engine.report

    def begin(self, timesteps: Sequence[float] | None = None, train_steps: float = 1000.0) -> None:
        """Begin a run of a bare model by hand. timesteps: one per call where they are known; the run before ends."""
        self.end()
        self._by_hand = True
        self.engine.begin(timesteps, train_steps)

    def end(self) -> Report:
        """End the run under way, free its state, and return its report."""
        self._forget()
        self._by_hand = False
        return self.engine.end()

    def remove(self) -> Report:
        """Take everything off the model, which is then as it was before. May be called twice."""
        for remover in reversed(self._removers):
            remover()
        self._removers = []
        return self.end()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()

    def _install(self, root: nn.Module, pipeline: Any) -> list[Callable[[], None]]:
        removers: list[Callable[[], None]] = []
        if self.engine.family.calls_forward:
            override = Override(root, self._around, repeats=True)
            override.install()
            removers.append(override.remove)
        else:
            removers.append(root.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            removers.append(root.register_forward_hook(self._after, with_kwargs=True, always_call=True).remove)
        if pipeline is not None:
            from ..pipelines.diffusers import watch_end

            removers.append(watch_end(pipeline, self.end))
        return removers

    def _around(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._before(None, args, kwargs)
        output = None
        try:
            output = inner(*args, **kwargs)
            return output
        finally:
            self._after(None, args, kwargs, output)

    def _before(self, module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = self.engine.family.inputs(args, kwargs)
        try:
            timestep, latent = self._timestep(inputs), _latent(inputs.latent)
        except Decline as reason:
            (self.engine.running or self.engine.begin()).decline_call(str(reason))
            return
        self._begin_if_new(inputs.timestep, timestep, latent)
        streams = self._labels.label(timestep, inputs.conditioning, inputs.latent.shape[0])
        session = self.engine.running
        assert session is not None
        session.begin_call(Call(timestep, latent, streams, input=inputs.latent))

    def _after(self, module: nn.Module | None, args: Any, kwargs: Any, output: Any) -> None:
        if self.engine.running:
            self.engine.running.end_call(output)

    def _timestep(self, inputs: Inputs) -> float:
        known = self._schedule.value(inputs.timestep) if self._schedule else None
        if known is not None:
            return known
        value = inputs.timestep
        if isinstance(value, Tensor) and value.numel():
            return float(value.flatten()[0])
        if isinstance(value, (int, float)):
            return float(value)
        raise Decline("no timestep could be read from its arguments")

    def _begin_if_new(self, given: Any, timestep: float, latent: tuple[int, ...]) -> None:
        now = _Seen(timestep, latent, self._schedule.token() if self._schedule else None)
        new = now.follows_not(self._seen)
        self._seen = now
        if self._by_hand or (self.engine.running and not new):
            return
        self.engine.end()
        self._labels = Labels()
        calls = self._schedule.calls_from(given, timestep) if self._schedule else None
        self.engine.begin(calls, self._schedule.train_steps if self._schedule else 1000.0)

    def _forget(self) -> None:
        self._labels = Labels()
        self._seen = _Seen()


def _latent(value: Any) -> tuple[int, ...]:
    """The size of a latent [B, C, ...], or the number of tokens of a packed one [B, N, C]."""
    if not isinstance(value, Tensor) or value.ndim < 3:
        raise Decline("its input is no latent")
    return tuple(value.shape[2:]) if value.ndim > 3 else (value.shape[1],)


def _network(target: Any) -> nn.Module:
    if isinstance(target, nn.Module):
        return target
    for name in ("unet", "transformer"):
        if isinstance(getattr(target, name, None), nn.Module):
            return getattr(target, name)
    raise ModelError(f"{type(target).__name__} is no model and has no unet or transformer: give one that has")


def _schedule(pipeline: Any) -> Schedule | None:
    if getattr(pipeline, "scheduler", None) is None:
        return None
    from ..pipelines.diffusers import PipelineSchedule

    return PipelineSchedule(pipeline)


def _handles_on(root: nn.Module) -> list[Handle]:
    """Handles whose hook or override stands on the module."""
    own = getattr(root.__dict__.get("forward"), "__self__", None)
    hooks = [*root._forward_pre_hooks.values(), own.around if isinstance(own, Override) else None]
    owners = [getattr(hook, "__self__", None) for hook in hooks]
    return [owner for owner in owners if isinstance(owner, Handle)]
