"""Watches two steps of a pipeline's run: the forwards of its network, and what its sampler gets."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..core.engine.outputs import prediction
from ..core.errors import ModelError


class Forward(NamedTuple):
    """One forward of the network.

    Args:
        arguments: by name.
        output: the prediction [rows, ...].

    Example:
        >>> Forward({"sample": torch.zeros(2, 4, 8, 8)}, torch.zeros(2, 4, 8, 8)).output.shape
        torch.Size([2, 4, 8, 8])
    """

    arguments: dict[str, Any]
    output: Tensor


class Step(NamedTuple):
    """A step of the sampler.

    Args:
        forwards: of the network, before the step.
        output: what the sampler got as the network's output [B, ...].
        t: its timestep.
        latents: its latents [B, ...].
        scheduler: the sampler before the step.

    Example:
        >>> Step([], torch.zeros(1), torch.tensor(9.0), torch.ones(1), scheduler=None).network_input
        tensor([1.])
    """

    forwards: list[Forward]
    output: Tensor
    t: Tensor
    latents: Tensor
    scheduler: Any

    @property
    def network_input(self) -> Tensor:
        """The latents, scaled as the network takes them."""
        scale = getattr(copy.deepcopy(self.scheduler), "scale_model_input", None)
        return self.latents if scale is None else scale(self.latents, self.t)


class _Seen(Exception):
    """Ends the watched run."""


def watched(pipe: Any, network: nn.Module, arguments: dict[str, Any]) -> tuple[Step, Step]:
    """Run a pipeline up to its sampler's second step, and return both. The pipeline is left as it was.

    Args:
        pipe: a diffusers pipeline.
        network: its U-Net or transformer.
        arguments: of the run.

    Raises :class:`ModelError` if no two steps with forwards of the network were seen.

    Example:
        >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
        >>> kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
        >>> pipe = DDIMPipeline(UNet2DModel(sample_size=8, layers_per_block=1, **kinds), DDIMScheduler())
        >>> pipe.set_progress_bar_config(disable=True)
        >>> first, second = watched(pipe, pipe.unet, {"num_inference_steps": 4})
        >>> float(first.t), len(second.forwards)
        (750.0, 1)
    """
    forwards: list[Forward] = []
    steps: list[Step] = []
    signature = inspect.signature(network.forward)

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        found = prediction(output)
        if found is not None:
            forwards.append(Forward(_flat(signature, args, kwargs), found.detach().clone()))

    def step(scheduler: Any, output: Tensor, t: Any, latents: Tensor) -> None:
        steps.append(Step(forwards.copy(), output.detach(), torch.as_tensor(t), latents.detach(), scheduler))
        forwards.clear()
        if len(steps) > 1:
            raise _Seen

    with _hooked(network, keep), _stepping(pipe, step), suppress(_Seen), torch.no_grad():
        try:
            pipe(**arguments)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{type(pipe).__name__} cannot be taken apart ({str(error).splitlines()[0]})") from None
    if len(steps) < 2 or not steps[0].forwards:
        raise ModelError(
            f"{type(pipe).__name__} cannot be taken apart: no two steps of its sampler with its network were seen"
        )
    return steps[0], steps[1]


def _flat(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name."""
    bound = signature.bind(*args, **kwargs).arguments
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.update(bound.pop(parameter.name, {}))
    return dict(bound)


@contextmanager
def _hooked(network: nn.Module, keep: Callable[..., None]) -> Iterator[None]:
    handle = network.register_forward_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _stepping(pipe: Any, keep: Callable[[Any, Tensor, Any, Tensor], None]) -> Iterator[None]:
    """While a pipeline runs, each step of its sampler is shown with a copy of the sampler before it."""
    own = pipe.scheduler
    pipe.scheduler = scheduler = copy.deepcopy(own)

    def step(output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        before = copy.copy(scheduler)
        vars(before).pop("step")
        keep(copy.deepcopy(before), output, timestep, sample)
        return type(scheduler).step(scheduler, output, timestep, sample, *args, **kwargs)

    scheduler.step = step
    try:
        yield
    finally:
        pipe.scheduler = own
        if hasattr(pipe, "maybe_free_model_hooks"):
            pipe.maybe_free_model_hooks()
