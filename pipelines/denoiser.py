"""diffusers pipelines for mask training (:class:`skipstone.core.calibrate.denoiser.Denoiser`).

A pipeline is split into network, conditioning and one copy of its scheduler per trajectory, so that the histories of
multistep samplers do not mix. diffusers is not imported here.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.calibrate.denoiser import Trajectory
from ..core.forecast.space import Noise
from ..core.plan.run import Horizon
from .conditions import Conditions, conditions_of, is_known
from .forms import Form, Packed, Plain
from .network import network_of
from .noise import horizon_of, noise_at
from .observed import ObservedConditions, observe_pipeline
from .packing import takes_tokens
from .runs import guidance_of, initial_scale, latent_shape, set_timesteps

_ROOM = 1.01
"""A schedule may pass the levels of training by this factor, from rounding."""


@dataclass(frozen=True)
class _History:
    """A trajectory's scheduler, and the generators of its samples for samplers that add noise."""

    scheduler: Any
    generators: list[torch.Generator]


class PipelineDenoiser:
    """A network, a scheduler and conditionings. The seed of a sample chooses its conditioning.

    Args:
        network: the U-Net or transformer.
        scheduler: its own copy, on which `set_timesteps` was called.
        conditions: conditionings in the form that the network takes.
        shape: of one latent [C, h, w].
        guidance: scale of classifier-free guidance; not used without an empty conditioning.
        form: how the network takes a call; follows from the network by default.

    Example:
        >>> from diffusers import DDIMScheduler
        >>> scheduler = DDIMScheduler()
        >>> scheduler.set_timesteps(2)
        >>> denoiser = PipelineDenoiser(nn.Linear(1, 1), scheduler, Conditions({}), (4, 8, 8))
        >>> start = denoiser.begin(seeds=[0, 1])
        >>> denoiser.advance(start, output=start.x, call=0).x.shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        scheduler: Any,
        conditions: Conditions | ObservedConditions,
        shape: tuple[int, ...],
        guidance: float = 1.0,
        form: Form | None = None,
    ) -> None:
        """Read the timesteps and input scales of all calls."""
        self.network = network
        scheduler.is_scale_input_called = True  # we scale by factors of our own; some samplers would warn at each step
        self._scheduler, self._conditions, self._shape = scheduler, conditions, shape
        self._guidance = guidance if conditions.empty is not None else 1.0
        self._t = list(scheduler.timesteps)
        self.timesteps = tuple(float(t) for t in self._t)
        self._scales = _input_scales(scheduler, self._t)
        self._takes = set(inspect.signature(scheduler.step).parameters)
        plain = Packed(network, shape[1:]) if takes_tokens(network) else Plain(network, shape[0])
        self._form = plain if form is None else form

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Return the initial noise of each seed's own generator, scaled for the sampler, with a conditioning drawn by it."""
        generators, noises, which = zip(*map(self._sample, seeds), strict=True)
        weight = next(self.network.parameters())
        x = torch.stack(noises).to(weight.device, weight.dtype) * initial_scale(self._scheduler)
        rows = self._conditions.rows(which, self._guidance > 1)
        return Trajectory(x, rows, _History(_with_path(_twin(self._scheduler), x, seeds), list(generators)))

    def _sample(self, seed: int) -> tuple[torch.Generator, Tensor, int]:
        """Return a seed's generator, and the noise and the number of the conditioning that it drew."""
        generator = torch.Generator().manual_seed(seed)
        return generator, torch.randn(self._shape, generator=generator), _one_of(len(self._conditions), generator)

    def condition_of(self, seed: int) -> int:
        """Return the number of the conditioning that a seed chooses.

        Args:
            seed: of a sample.
        """
        return self._sample(seed)[2]

    def predict(self, at: Trajectory, call: int) -> Tensor:
        """Return the network's output, of its input's shape. With guidance there are two rows per sample, the empty ones first.

        Args:
            at: the trajectory.
            call: number of the call, from 0.
        """
        return self._form.run(self.network, self.network_input(at, call), self._t[call], at.cond)

    def network_input(self, at: Trajectory, call: int) -> Tensor:
        """Return the latents that :meth:`predict` gives the network: [rows, C, h, w], or packed as [rows, tokens, 4C].

        Args:
            at: the trajectory.
            call: number of the call, from 0.
        """
        x = torch.cat([at.x, at.x]) if self._guidance > 1 else at.x
        return self._form.taken(x * self._scales[call])

    def noise(self, call: int) -> Noise | None:
        """Return the noise level of a call; None if it is not known."""
        return noise_at(self._scheduler, self.timesteps[call], self._form.sign < 0)

    @property
    def horizon(self) -> Horizon:
        """What is known of the run ahead."""
        return horizon_of(self._scheduler, self.timesteps)

    @property
    def scheduler(self) -> Any:
        """The scheduler, of which each trajectory steps a copy."""
        return self._scheduler

    @property
    def sampler(self) -> str:
        """Name of the sampler."""
        return type(self._scheduler).__name__

    @property
    def scheduler_module(self) -> str:
        """Name of the module that defines the sampler."""
        return type(self._scheduler).__module__

    @property
    def guidance(self) -> float:
        """Scale of classifier-free guidance."""
        return self._guidance

    def advance(self, at: Trajectory, output: Tensor, call: int) -> Trajectory:
        """Apply guidance and the scheduler's step.

        Args:
            at: the trajectory.
            output: of :meth:`predict`.
            call: number of the call, from 0.
        """
        given = {"generator": at.history.generators, "eta": 0.0}  # the arguments that diffusers' pipelines pass
        more = {name: value for name, value in given.items() if name in self._takes}
        step = at.history.scheduler.step(
            self._form.latents(self.guided(output)), self._t[call], at.x, return_dict=False, **more
        )
        return Trajectory(step[0].to(at.x.dtype), at.cond, at.history)

    def fork(self, at: Trajectory) -> Trajectory:
        """Return a copy of a trajectory, with its own scheduler and generators."""
        history = _History(_twin(at.history.scheduler), [_same_state(g) for g in at.history.generators])
        return Trajectory(at.x.detach(), at.cond, history)

    def guided(self, output: Tensor) -> Tensor:
        """Return the output with guidance applied, and without a learned variance."""
        output = self._form.prediction(output)
        if self._guidance <= 1:
            return output
        empty, cond = output.chunk(2)
        return empty + self._guidance * (cond - empty)


def denoiser_of(
    pipe: Any,
    steps: int,
    guidance: float | None = None,
    prompts: Sequence[str] = (),
    conditions: Conditions | None = None,
    size: int | None = None,
    **options: Any,
) -> PipelineDenoiser:
    """Split a pipeline into network, scheduler and conditionings. A kind that is not known is watched for two steps.

    Args:
        pipe: a diffusers pipeline.
        steps: number of sampler steps.
        guidance: scale of classifier-free guidance; the pipeline's own by default.
        prompts: texts, or class names and numbers; the pipeline's own classes or four texts by default.
        conditions: used in place of prompts.
        size: picture side in pixels; the model's own by default.
        options: further arguments of a pipeline that is watched, such as `num_frames`.

    Raises :class:`ModelError` for a pipeline that cannot be taken apart, :class:`RecipeError` for values that it does not accept.

    Example:
        >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
        >>> kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
        >>> pipe = DDIMPipeline(UNet2DModel(sample_size=8, layers_per_block=1, **kinds), DDIMScheduler())
        >>> denoiser_of(pipe, steps=2).timesteps
        (500.0, 0.0)
    """
    if conditions is None and (options or not is_known(pipe)):
        seen = observe_pipeline(pipe, steps, prompts, **_asked(pipe, guidance, size, len(prompts)), **options)
        return PipelineDenoiser(seen.network, seen.scheduler, seen.conditions, seen.shape, seen.guidance, seen.form)
    given = conditions_of(pipe, prompts, size) if conditions is None else conditions
    network = network_of(pipe)
    shape = latent_shape(pipe, network, size)
    scheduler = copy.deepcopy(pipe.scheduler)
    set_timesteps(scheduler, steps, network, shape)
    scale = guidance_of(pipe) if guidance is None else guidance
    return PipelineDenoiser(network, scheduler, given, shape, scale)


def _asked(pipe: Any, guidance: float | None, size: int | None, prompts: int) -> dict[str, Any]:
    """Return guidance and size as the arguments that a pipeline has for them."""
    takes = inspect.signature(pipe.__call__).parameters
    asked: dict[str, Any] = {} if size is None else {"height": size, "width": size}
    if guidance is not None and "true_cfg_scale" in takes:
        asked["true_cfg_scale"] = guidance
        if guidance > 1 and prompts:
            asked["negative_prompt"] = ""
    elif guidance is not None and "guidance_scale" in takes:
        asked["guidance_scale"] = guidance
    return asked


def _input_scales(scheduler: Any, timesteps: Sequence[Tensor]) -> list[float]:
    """Return the scheduler's factor on the network's input, for each call."""
    if not hasattr(scheduler, "scale_model_input"):
        return [1.0] * len(timesteps)
    # Some schedulers scale by their step index: step a copy through the run on zeros.
    scratch, one = _twin(scheduler), torch.ones(1, 1, 1, 1, device=timesteps[0].device)
    scales = []
    for t in timesteps:
        scales.append(float(scratch.scale_model_input(one, t)))
        scratch.step(torch.zeros_like(one), t, one)
    return scales


def _twin(scheduler: Any) -> Any:
    """Return a copy of a scheduler at the same step, with lists and tensors of its own."""
    twin = copy.copy(scheduler)
    for name, value in vars(twin).items():
        if isinstance(value, Tensor):
            setattr(twin, name, value.detach())
        elif isinstance(value, list):
            setattr(twin, name, [v.detach() if isinstance(v, Tensor) else v for v in value])
    return twin


def _with_path(scheduler: Any, x: Tensor, seeds: Sequence[int]) -> Any:
    """Return the scheduler; where it adds increments of a Brownian path (DPM++ SDE), with a path for each seed."""
    if hasattr(scheduler, "noise_sampler_seed"):
        path = sys.modules[type(scheduler).__module__].BrownianTreeNoiseSampler
        levels = scheduler.alphas_cumprod  # of training: a seed has one path for any number of steps
        low, high = (float(((1 - level) / level) ** 0.5) for level in (levels.max(), levels.min()))
        scheduler.noise_sampler = path(x, low / _ROOM, high * _ROOM, list(seeds))
    return scheduler


def _one_of(count: int, generator: torch.Generator) -> int:
    """Return a random number below `count`. With one choice nothing is drawn, so that the noise is that of the pipeline."""
    return int(torch.randint(count, (), generator=generator)) if count > 1 else 0


def _same_state(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    return twin
