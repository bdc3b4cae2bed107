"""Takes any diffusers pipeline apart by watching two steps of a run: what reaches its network, and what its sampler gets."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.engine.outputs import prediction
from ..core.errors import ModelError, RecipeError
from .conditions import PROMPTS
from .network import network_of
from .row_arguments import by_row, equal, picked, without
from .time_unit import UNITS, TimeUnit
from .watching import Forward, Step, watched

_FEWEST_ROWS = 5
"""Samples of the watched run: two would be taken for a pair, such as cosines and sines, three for sizes of a video."""
_CLOSE = 2e-2
"""Largest relative difference of tensors that are taken for the same, at half precision."""
_NEAR = 1.5
"""Largest distance of a time argument from the step's timestep, in training timesteps."""


@dataclass(frozen=True)
class ObservedConditions:
    """The conditionings that a pipeline gave its network.

    Args:
        cond: arguments by name, with :class:`Rows` where samples differ.
        empty: the same for classifier-free guidance; None without it.
        count: number of conditionings.

    Example:
        >>> from .row_arguments import Rows
        >>> ObservedConditions({"labels": Rows(torch.tensor([3, 8])), "scale": 2.0}, None, 2).rows([1], guided=False)
        {'labels': tensor([8]), 'scale': 2.0}
    """

    cond: dict[str, Any]
    empty: dict[str, Any] | None
    count: int

    def __len__(self) -> int:
        return self.count

    def rows(self, which: Sequence[int], guided: bool) -> dict[str, Any]:
        """Return the arguments of a batch. With guidance, as many empty conditionings come first.

        Args:
            which: number of each sample's conditioning.
            guided: whether to use classifier-free guidance.

        Raises :class:`RecipeError` if cond and uncond do not fit into one batch.
        """
        parts = [self.empty, self.cond] if guided and self.empty is not None else [self.cond]
        try:
            found: dict[str, Any] = picked(parts, list(which))
        except RuntimeError as error:
            raise RecipeError(
                f"prompt and empty prompt do not fit into one batch ({str(error).splitlines()[0]}): give guidance 1"
            ) from None
        return found


@dataclass(frozen=True)
class Observed:
    """A pipeline taken apart.

    Args:
        network: the U-Net or transformer.
        scheduler: at the begin of a run.
        conditions: of the samples.
        shape: of one latent, as the sampler has it.
        guidance: scale of classifier-free guidance; 1 without it.
        form: how the network takes a call (:class:`skipstone.pipelines.forms.Form`).

    Example:
        >>> seen = observe_pipeline(pipe, steps=4, prompts=["a cat"])  # doctest: +SKIP
        >>> seen.shape, seen.guidance  # doctest: +SKIP
        ((4096, 64), 1.0)
    """

    network: nn.Module
    scheduler: Any
    conditions: ObservedConditions
    shape: tuple[int, ...]
    guidance: float
    form: ObservedForm


@dataclass(frozen=True)
class ObservedForm:
    """How a network was seen to take a call.

    Args:
        latent: name of the argument that has the latents.
        time: name of the argument that has the time.
        dtype: of the latents there.
        example: the time argument as it was given.
        unit: of the time.
        sign: of the output, in what the sampler gets.
        channels: of the latents.
        frames: whether it takes a list of pictures [C, 1, h, w] (Z-Image).

    Example:
        >>> form = ObservedForm("x", "t", torch.float16, torch.zeros(2), UNITS[2], sign=-1.0, channels=4)
        >>> form.latents(torch.ones(1)).tolist(), form.taken(torch.ones(1)).dtype
        ([-1.0], torch.float16)
    """

    latent: str
    time: str
    dtype: torch.dtype
    example: Tensor
    unit: TimeUnit
    sign: float
    channels: int
    frames: bool = False

    def taken(self, latents: Tensor) -> Tensor:
        """Return the latents in the network's precision."""
        return latents.to(self.dtype)

    def run(self, network: nn.Module, x: Tensor, t: Tensor, arguments: dict[str, Any]) -> Tensor:
        """Run the network as the pipeline does.

        Args:
            network: the U-Net or transformer.
            x: its input [rows, ...].
            t: training timestep, a tensor [].
            arguments: its other arguments.
        """
        share = float(t) / self.unit.scale
        argument = torch.as_tensor(1 - share if self.unit.rising else share, dtype=self.example.dtype, device=x.device)
        argument = argument.expand(len(x), *self.example.shape[1:]) if self.example.ndim else argument
        given = list(x.unsqueeze(2).unbind()) if self.frames else x
        found = prediction(network(**{**arguments, self.latent: given, self.time: argument}))
        assert found is not None  # it was seen to have one
        return found.squeeze(2) if self.frames else found

    def prediction(self, output: Tensor) -> Tensor:
        """Return the output without further channels."""
        return output[:, : self.channels]

    def latents(self, prediction: Tensor) -> Tensor:
        """Return the prediction with the sampler's sign."""
        return self.sign * prediction


def observe_pipeline(pipe: Any, steps: int, prompts: Sequence[str] = (), **options: Any) -> Observed:
    """Take a pipeline apart by watching two steps of a run.

    Args:
        pipe: a diffusers pipeline with one network.
        steps: number of sampler steps.
        prompts: texts; four by default.
        options: further arguments of the pipeline, such as `guidance_scale`, `height` or `num_frames`.

    Raises :class:`ModelError` for a pipeline that cannot be taken apart, with the reason.

    Example:
        >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
        >>> kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
        >>> pipe = DDIMPipeline(UNet2DModel(sample_size=8, layers_per_block=1, **kinds), DDIMScheduler())
        >>> pipe.set_progress_bar_config(disable=True)
        >>> seen = observe_pipeline(pipe, steps=4, batch_size=2)
        >>> seen.form.latent, seen.form.time, seen.shape, seen.guidance
        ('sample', 'timestep', (3, 8, 8), 1.0)
    """
    network, takes = network_of(pipe), inspect.signature(pipe.__call__).parameters
    if "prompt" in takes and "prompt_embeds" not in options:
        prompts = prompts or PROMPTS
        options["prompt"] = [prompts[i % len(prompts)] for i in range(max(_FEWEST_ROWS, len(prompts)))]
    if "output_type" in takes:
        options.setdefault("output_type", "latent")
    step, second = watched(pipe, network, {"num_inference_steps": steps, **options})
    forwards, latent = step.forwards, _latent_argument(step)
    time, unit = _time_argument(step)
    _check_repeats(step, second, (latent, time))
    cond, empty, guidance, sign = _guidance(_by_sample(forwards, len(step.latents)), step)
    if empty is not None and equal(cond, empty):
        raise ModelError("guidance without an empty prompt (PAG) is not known, so the pipeline cannot be taken apart")
    x, t = forwards[0].arguments[latent], forwards[0].arguments[time]
    channels = step.latents.shape[1]
    form = ObservedForm(latent, time, x[0].dtype, t, unit, sign, channels, frames=isinstance(x, list))
    texts = [None if part is None else without(part, (latent, time)) for part in (cond, empty)]
    conditions = ObservedConditions(texts[0] or {}, texts[1], len(prompts) or len(step.latents))
    return Observed(network, step.scheduler, conditions, tuple(step.latents.shape[1:]), guidance, form)


def _latent_argument(step: Step) -> str:
    """Return the name of the argument that has the latents."""
    wanted = step.network_input
    for name, given in step.forwards[0].arguments.items():
        value = _pictures(given)
        rows = isinstance(value, Tensor) and value.shape[1:] == wanted.shape[1:] and len(value) % len(wanted) == 0
        if rows and _same(value[: len(wanted)], wanted):
            return name
    raise ModelError("the latents do not reach the network as they are, so the pipeline cannot be taken apart")


def _pictures(value: Any) -> Any:
    """Return a list of pictures [C, 1, h, w] as a batch [B, C, h, w]; other values as they are."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(v, Tensor) and v.ndim == 4 and v.shape[1] == 1 for v in value)
    ):
        return torch.stack(value).squeeze(2) if len({v.shape for v in value}) == 1 else value
    return value


def _check_repeats(first: Step, second: Step, changing: tuple[str, str]) -> None:
    """Refuse pipelines whose runs are more than a network and a sampler."""
    if float(first.t) != float(first.scheduler.timesteps[0]):
        raise ModelError("the run does not begin with noise (image to image), so the pipeline cannot be taken apart")
    if len(second.forwards) != len(first.forwards):
        raise ModelError("its steps differ in their forwards, so the pipeline cannot be taken apart")
    for before, after in zip(first.forwards, second.forwards, strict=True):
        if not equal(without(before.arguments, changing), without(after.arguments, changing)):
            raise ModelError(
                "further inputs of the network change from step to step (ControlNet), so the pipeline cannot be taken apart"
            )
    made = type(first.scheduler).step(
        copy.deepcopy(first.scheduler), first.output, first.t, first.latents, return_dict=False
    )
    if not _same(second.latents, made[0]):
        raise ModelError("the latents change between two steps (inpainting), so the pipeline cannot be taken apart")


def _time_argument(step: Step) -> tuple[str, TimeUnit]:
    """Return the name of the argument that has the step's time, and its unit."""
    for name, value in step.forwards[0].arguments.items():
        if name in ("timestep", "timesteps", "t") and isinstance(value, Tensor) and value.numel():
            if float(value.float().min()) != float(value.float().max()):
                raise ModelError("the network takes several times in one call, so the pipeline cannot be taken apart")
            for unit in UNITS:
                if abs(unit.timestep(float(value.flatten()[0])) - float(step.t)) <= _NEAR:
                    return name, unit
    raise ModelError("the step's time does not reach the network, so the pipeline cannot be taken apart")


def _by_sample(forwards: Sequence[Forward], samples: int) -> list[Forward]:
    """Return a forward of all conds as one for each of them, with what differs between samples as :class:`Rows`."""
    parts = []
    for arguments, output in forwards:
        rows = len(output)
        marked = by_row(arguments, rows)
        for first in range(0, rows, samples):
            which = list(range(first, first + samples))
            parts.append(Forward(by_row(picked([marked], which), samples), output[first : first + samples]))
    return parts


def _guidance(parts: Sequence[Forward], step: Step) -> tuple[dict[str, Any], dict[str, Any] | None, float, float]:
    """Return the arguments of cond and uncond, the scale of guidance, and the sign with which the sampler gets the output."""
    wanted = step.output.float()
    outputs = [part.output[:, : wanted.shape[1]].float().reshape(wanted.shape) for part in parts]
    for sign in (1.0, -1.0):
        if len(outputs) == 1 and _same(sign * outputs[0], wanted):
            return parts[0].arguments, None, 1.0, sign
        if len(outputs) == 2:
            for empty, cond in ((0, 1), (1, 0)):
                step_up = outputs[cond] - outputs[empty]
                scale = float(
                    (sign * wanted - outputs[empty]).mul(step_up).sum() / step_up.square().sum().clamp(min=1e-12)
                )
                if scale > 1 and _same(sign * (outputs[empty] + scale * step_up), wanted):
                    return parts[cond].arguments, parts[empty].arguments, round(scale, 3), sign
    raise ModelError(
        f"the pipeline combines {len(outputs)} predictions of its network in a way of its own: give guidance 1"
    )


def _same(value: Tensor, wanted: Tensor) -> bool:
    difference = (value.float() - wanted.float()).norm()
    return bool(difference <= _CLOSE * wanted.float().norm().clamp(min=1e-12))
