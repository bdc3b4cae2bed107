"""The ways to run a whole U-Net through a run of several calls that `skipstone bench skips` compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.measure.macs import count_macs
from ...core.measure.timing import wait
from ...core.plan.block_plan import even_timesteps
from ...core.recipe.block_skip import BlockSkip
from ...core.recipe.presets import preset
from ...core.recipe.recipe import Recipe
from ...pipelines.accelerate import accelerate
from .one_block import twin
from .unet import UNetInputs

DENSE = "dense"
PACKAGE = "deepcache"


@dataclass(frozen=True)
class Installed:
    """A way that stands on a network. begin: of a run. end: of a run; returns the bytes that its caches held at most."""

    begin: Callable[[], Any] = lambda: None
    end: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Way:
    """One way to run: how many calls a run of it has, and how it gets onto a network whose timesteps are known.

    peer: name of the way that does the same work and must give the same output.
    """

    name: str
    calls: int
    install: Callable[[nn.Module, Sequence[float]], Installed]
    peer: str = ""


def ways(calls: int, intervals: Sequence[int], dato_calls: int) -> list[Way]:
    """Dense, DeepCache's rule by Skipstone and by its package where that is installed, and DaTo's preset P_COCO.

    calls, dato_calls: of their runs.
    """
    found = [Way(DENSE, calls, lambda network, timesteps: Installed())]
    for every in intervals:
        package = f"{PACKAGE}, every {every}"
        found.append(Way(f"Skipstone, every {every}", calls, ours(BlockSkip(every=every)), package))
        if not absent():
            found.append(Way(package, calls, deepcache(every)))
    dato = preset("dato_coco")
    found.append(Way("Skipstone P_COCO, unpruned", dato_calls, ours(dato.replace(prune=None))))
    found.append(Way("Skipstone P_COCO, pruned 0.4", dato_calls, ours(dato)))
    return found


def absent() -> list[str]:
    """Peers that are not installed."""
    return [] if find_spec("DeepCache") else [f"{PACKAGE} (not installed)"]


def ours(recipe: Recipe | BlockSkip) -> Callable[[nn.Module, Sequence[float]], Installed]:
    """Skipstone through its public verb, told the calls as a pipeline tells them."""

    def install(network: nn.Module, timesteps: Sequence[float]) -> Installed:
        handle = accelerate(network, recipe)
        return Installed(lambda: handle.begin(timesteps), lambda: handle.end().cache_bytes)

    return install


def deepcache(every: int, branch: int = 0) -> Callable[[nn.Module, Sequence[float]], Installed]:
    """The package that the authors of DeepCache publish. It finds a call by its timestep, the second positional argument."""

    def install(network: nn.Module, timesteps: Sequence[float]) -> Installed:
        from DeepCache import DeepCacheSDHelper

        helper = DeepCacheSDHelper(SimpleNamespace(unet=network, scheduler=SimpleNamespace(timesteps=timesteps)))
        helper.set_params(cache_interval=every, cache_branch_id=branch)
        helper.enable()
        return Installed(end=lambda: held_bytes(helper.cached_output))

    return install


def held_bytes(value: Any) -> int:
    """Bytes of all memory that the tensors in nested dicts, lists and tuples keep alive, each counted once."""
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in _tensors(value))}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


class Walk:
    """One way on a network of its own, which shares the U-Net's weights; its run is made call by call.

    outputs: of each call of the last run. cache_bytes: what the way's caches held at most in that run.
    """

    def __init__(self, unet: nn.Module, way: Way, inputs: UNetInputs) -> None:
        """Install the way."""
        self.way = way
        self.outputs: dict[int, Tensor] = {}
        self.cache_bytes = 0
        self._inputs = inputs
        self._network = twin(unet)
        self._timesteps = [float(round(t)) for t in even_timesteps(way.calls)]  # distinct, and exact in any float
        self._installed = way.install(self._network, self._timesteps)

    @torch.no_grad()
    def call(self, k: int) -> Tensor:
        """Call k of the run, on a latent that all ways get at their call k; returns when the device is done."""
        if k == 0:
            self._installed.begin()
        latent = self._inputs.latent(seed=k)
        timestep = torch.tensor(self._timesteps[k], device="cpu")
        output = self._network(latent, timestep, encoder_hidden_states=self._inputs.context).sample
        wait(output.device)
        self.outputs[k] = output
        if k == self.way.calls - 1:
            self.cache_bytes = self._installed.end()
        return output


def call_macs(unet: nn.Module, way: Way, inputs: UNetInputs) -> list[int]:
    """Multiply-adds of each call of a way's run. On torch's meta device the real modules run, without their numbers."""
    walk = Walk(unet, way, inputs)
    return [count_macs(lambda k=k: walk.call(k)) for k in range(way.calls)]  # type: ignore[misc]
