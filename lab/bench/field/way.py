"""A way to draw: what is installed on a pipeline's network, and how a batch is drawn with it and measured."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ....core.calibrate.denoiser import Trajectory
from ....core.errors import SkipstoneError
from ....core.measure.macs import Counted, count
from ....core.recipe.presets import as_recipe
from ....core.recipe.recipe import Method, Recipe
from ....pipelines.accelerate import accelerate
from ....pipelines.denoiser import PipelineDenoiser
from ..one_block import twin

DENSE, FEWER = "dense", "fewer steps"
"""Groups that others are held against."""
Predict = Callable[[Trajectory, int], Tensor]
"""The network's output for the latents of a trajectory at a call."""


class Host:
    """What a way is installed on: the parts of a pipeline that packages use, with a network of its own.

    Args:
        denoiser: the model with its sampler; its weights are shared.

    Attributes:
        unet, transformer: the network, by the name that pipelines of its kind have for it; the other one is absent.
        scheduler: that of the run under way, or of none before it.
        source: the denoiser that was given, for what is measured once for all runs.
        on_call: called with the number of each call before it.

    Example:
        >>> host = Host(denoiser)  # doctest: +SKIP
        >>> host.network is denoiser.network  # doctest: +SKIP
        False
    """

    def __init__(self, denoiser: PipelineDenoiser) -> None:
        """Copy the network's modules."""
        self.source, self.denoiser = denoiser, copy.copy(denoiser)
        self.denoiser.network = self.network = twin(denoiser.network)
        setattr(self, "unet" if hasattr(self.network, "mid_block") else "transformer", self.network)
        self.scheduler = denoiser.scheduler
        self.on_call: list[Callable[[int], Any]] = []

    @property
    def calls(self) -> int:
        """Number of calls of a dense run."""
        return len(self.denoiser.timesteps)

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Begin a run.

        Args:
            seeds: one per sample.
        """
        at = self.denoiser.begin(seeds)
        self.scheduler = cast(Any, at.history).scheduler
        return at

    def progress_bar(self, calls: range) -> range:
        """Return the calls of a run; packages see its beginning and end here."""
        return calls


Install = Callable[[Host], AbstractContextManager[Predict]]
"""Installs a way on a host for one run. Raises :class:`SkipstoneError` where it does not apply."""


@contextmanager
def plain(host: Host) -> Iterator[Predict]:
    """Install nothing.

    Args:
        host: to draw with.

    Example:
        >>> with plain(host) as predict:  # doctest: +SKIP
        ...     predict(host.begin([0]), 0)
    """
    yield host.denoiser.predict


@dataclass(frozen=True)
class Way:
    """A way to draw.

    Args:
        name: in tables.
        group: its family, such as "fewer steps", "Skipstone" or a package.
        install: installs it.
        steps: of the sampler; those of the dense run if 0.
        sampler: short name; that of the dense run if "".

    Example:
        >>> Way("10 steps", "fewer steps", steps=10).sampler
        ''
    """

    name: str
    group: str
    install: Install = field(default=plain, compare=False)
    steps: int = 0
    sampler: str = ""


@dataclass(frozen=True)
class Drawn:
    """A batch that was drawn.

    Args:
        latents: final ones [B, ...].
        calls: what each call took; empty if it was not counted.
        held: the most bytes that lived between two calls, at four places of the run; 0 if it was not measured.

    Example:
        >>> Drawn(torch.zeros(1, 4), (Counted(10, 5), Counted(0, 2))).macs
        10
    """

    latents: Tensor
    calls: tuple[Counted, ...] = ()
    held: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds of all calls."""
        return sum(call.macs for call in self.calls)


def by_recipe(recipe: Recipe | Method | str | Path) -> Install:
    """Return what installs a recipe by the public API.

    Args:
        recipe: of Skipstone, in any of its forms.

    Example:
        >>> callable(by_recipe("2x"))
        True
    """

    @contextmanager
    def install(host: Host) -> Iterator[Predict]:
        with accelerate(host, as_recipe(recipe)) as handle:
            yield host.denoiser.predict
            if handle.report().idle:
                raise SkipstoneError("; ".join(handle.report().lines()))

    return install


@torch.no_grad()
def draw(
    way: Way, denoiser: PipelineDenoiser, seeds: Sequence[int], watched: bool = False, counted: bool = True
) -> Drawn:
    """Draw a batch.

    Args:
        way: to draw.
        denoiser: the model with its sampler.
        seeds: one per sample.
        watched: measure the bytes that live between calls, too.
        counted: count multiply-adds and operations.

    Raises :class:`SkipstoneError` where the way does not apply.

    Example:
        >>> draw(Way("dense", "dense"), denoiser, seeds=[0, 1]).latents.shape  # doctest: +SKIP
        torch.Size([2, 12, 32, 32])
    """
    host, calls, held = Host(denoiser), [], 0
    with way.install(host) as predict:
        at = host.begin(seeds)
        before = live_bytes(at.x.device) if watched else 0
        looks = {host.calls * quarter // 4 for quarter in (1, 2, 3)} | {host.calls - 2}
        for call in host.progress_bar(range(host.calls)):
            for told in host.on_call:
                told(call)
            found: list[Tensor] = []
            if counted:
                calls.append(count(lambda: found.append(predict(at, call))))  # noqa: B023
            else:
                found.append(predict(at, call))
            at = host.denoiser.advance(at, found.pop(), call)
            if watched and call in looks:
                held = max(held, live_bytes(at.x.device) - before)
    return Drawn(at.x, tuple(calls), held)


def live_bytes(device: torch.device) -> int:
    """Return the bytes of all tensors that are alive: by the allocator on CUDA, by Python's garbage collector elsewhere.

    Args:
        device: of the tensors.

    Example:
        >>> kept = torch.zeros(1000)
        >>> live_bytes(torch.device("cpu")) >= kept.nbytes
        True
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    storages = dict(map(_storage, tensors))
    return sum(size for address, size in storages.items() if address)


def _storage(tensor: Tensor) -> tuple[int, int]:
    """Return address and bytes of a tensor's storage. The address is 0 where it has no memory: meta, sparse, a compiler's fake."""
    if tensor.device.type == "meta" or tensor.layout is not torch.strided:
        return 0, 0
    try:
        return tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
    except RuntimeError:  # fake tensors, which torch.compile leaves alive, say that they are on a real device
        return 0, 0
