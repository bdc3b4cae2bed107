"""The ways to run a whole U-Net through several calls that `skipstone bench skips` compares."""

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
    """A way that is installed on a network.

    Args:
        begin: starts a run.
        end: ends a run; returns the most bytes that its caches held.

    Example:
        >>> Installed().end()
        0
    """

    begin: Callable[[], Any] = lambda: None
    end: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class Way:
    """One way to run.

    Args:
        name: in tables.
        calls: of a run.
        install: puts it onto a network, given the timesteps of a run.
        peer: name of the way that does the same work and must give the same output.

    Example:
        >>> Way(DENSE, 15, lambda network, timesteps: Installed()).peer
        ''
    """

    name: str
    calls: int
    install: Callable[[nn.Module, Sequence[float]], Installed]
    peer: str = ""


def ways(calls: int, intervals: Sequence[int], dato_calls: int) -> list[Way]:
    """Dense, DeepCache's rule by Skipstone and (if installed) by its package, and DaTo's preset P_COCO.

    Args:
        calls: of a run.
        intervals: of DeepCache.
        dato_calls: of DaTo's runs; 0 leaves them out.

    Example:
        >>> [way.name for way in ways(15, (3,), 51) if way.name.startswith("Skipstone")]
        ['Skipstone, every 3', 'Skipstone P_COCO, unpruned', 'Skipstone P_COCO, pruned 0.4']
    """
    found = [Way(DENSE, calls, lambda network, timesteps: Installed())]
    for every in intervals:
        package = f"{PACKAGE}, every {every}"
        found.append(Way(f"Skipstone, every {every}", calls, ours(BlockSkip(every=every)), package))
        if not absent():
            found.append(Way(package, calls, deepcache(every)))
    if not dato_calls:
        return found
    dato = preset("dato_coco")
    found.append(Way("Skipstone P_COCO, unpruned", dato_calls, ours(dato.replace(prune=None))))
    found.append(Way("Skipstone P_COCO, pruned 0.4", dato_calls, ours(dato)))
    return found


def absent() -> list[str]:
    """Names of packages that are not installed.

    Example:
        >>> absent() in ([], ["deepcache (not installed)"])
        True
    """
    return [] if find_spec("DeepCache") else [f"{PACKAGE} (not installed)"]


def ours(recipe: Recipe | BlockSkip) -> Callable[[nn.Module, Sequence[float]], Installed]:
    """Skipstone's public API; the timesteps are announced, as a pipeline does.

    Example:
        >>> ours(BlockSkip(rule="interval"))(nn.Linear(1, 1), (999.0, 0.0))
        Traceback (most recent call last):
        skipstone.core.errors.ModelError: ...
    """

    def install(network: nn.Module, timesteps: Sequence[float]) -> Installed:
        handle = accelerate(network, recipe)
        return Installed(lambda: handle.begin(timesteps), lambda: handle.end().cache_bytes)

    return install


def deepcache(every: int, branch: int = 0) -> Callable[[nn.Module, Sequence[float]], Installed]:
    """The package of DeepCache's authors. It identifies a call by its timestep, the second positional argument.

    Args:
        every: interval between full calls.
        branch: number of the skip branch.

    Example:
        >>> callable(deepcache(every=3))
        True
    """

    def install(network: nn.Module, timesteps: Sequence[float]) -> Installed:
        from DeepCache import DeepCacheSDHelper

        helper = DeepCacheSDHelper(SimpleNamespace(unet=network, scheduler=SimpleNamespace(timesteps=timesteps)))
        helper.set_params(cache_interval=every, cache_branch_id=branch)
        helper.enable()
        return Installed(end=lambda: held_bytes(helper.cached_output))

    return install


def held_bytes(value: Any) -> int:
    """Bytes of memory that the tensors in nested dicts, lists and tuples keep alive, each counted once.

    Example:
        >>> x = torch.zeros(4)
        >>> held_bytes({"a": [x, x], "b": (x[:1],)})
        16
    """
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in _tensors(value))}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


class Walk:
    """One way on its own network, which shares the U-Net's weights; a run is made call by call.

    `outputs` are those of each call of the last run, `cache_bytes` the most that the caches held in it.

    Args:
        unet: with the weights.
        way: to install.
        inputs: of the calls.

    Example:
        >>> from diffusers import UNet2DConditionModel
        >>> kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
        >>> unet = UNet2DConditionModel(**kinds, layers_per_block=1, mid_block_type=None, cross_attention_dim=8)
        >>> Walk(unet, ways(2, (), 51)[0], UNetInputs(unet, batch=1, size=64)).call(0).shape
        torch.Size([1, 4, 8, 8])
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
        """Run call k, on a latent that all ways get at their call k. Returns when the device is done."""
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
    """Multiply-adds of each call of a run. On torch's meta device the modules run without their numbers.

    Args:
        unet: to count.
        way: to install.
        inputs: of the calls.

    Example:
        >>> from diffusers import UNet2DConditionModel
        >>> kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
        >>> with torch.device("meta"):
        ...     unet = UNet2DConditionModel(**kinds, layers_per_block=1, mid_block_type=None, cross_attention_dim=8)
        >>> len(set(call_macs(unet, ways(2, (), 51)[0], UNetInputs(unet, batch=1, size=64))))  # both calls cost the same
        1
    """
    walk = Walk(unet, way, inputs)
    return [count_macs(lambda k=k: walk.call(k)) for k in range(way.calls)]  # type: ignore[misc]
