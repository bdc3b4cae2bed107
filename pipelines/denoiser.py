"""diffusers pipelines as what masks are trained on (:class:`skipstone.core.calibrate.denoiser.Denoiser`).

A pipeline comes apart into network, conditioning and a copy of its scheduler for each trajectory, so that the histories of
multistep samplers do not mix. Nothing of diffusers is imported here.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.calibrate.denoiser import Trajectory
from .conditions import Conditions, conditions_of
from .prompts import network_of
from .runs import guidance_of, latent_shape, set_timesteps


@dataclass(frozen=True)
class _History:
    """A trajectory's scheduler, and the generators of its samples, for samplers that add noise."""

    scheduler: Any
    generators: list[torch.Generator]


class PipelineDenoiser:
    """A network, a scheduler with its steps set, and conditionings of which each sample takes one by its seed.

    shape: of one latent. guidance: scale of classifier-free guidance; without an empty conditioning there is none.
    """

    def __init__(
        self, network: nn.Module, scheduler: Any, conditions: Conditions, shape: tuple[int, ...], guidance: float = 1.0
    ) -> None:
        """scheduler: a copy of its own, on which set_timesteps has been called."""
        self.network = network
        scheduler.is_scale_input_called = True  # we scale by factors of our own; some samplers would warn at each step
        self._scheduler, self._conditions, self._shape = scheduler, conditions, shape
        self._guidance = guidance if conditions.empty is not None else 1.0
        self._t = list(scheduler.timesteps)
        self.timesteps = tuple(float(t) for t in self._t)
        self._scales = _input_scales(scheduler, self._t)
        self._takes = set(inspect.signature(scheduler.step).parameters)

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Unit noise from each seed's own generator, scaled for the sampler, and a conditioning drawn by it."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(self._shape, generator=g) for g in generators])
        which = [_one_of(len(self._conditions), g) for g in generators]
        weight = next(self.network.parameters())
        x = noise.to(weight.device, weight.dtype) * getattr(self._scheduler, "init_noise_sigma", 1.0)
        return Trajectory(
            x, self._conditions.rows(which, self._guidance > 1), _History(_twin(self._scheduler), generators)
        )

    def predict(self, at: Trajectory, call: int) -> Tensor:
        """The network on the latents, with guidance twice: empty conditioning first."""
        x = torch.cat([at.x, at.x]) if self._guidance > 1 else at.x
        t = self._t[call].to(x.device).expand(len(x))
        return self.network(x * self._scales[call], timestep=t, return_dict=False, **at.cond)[0]

    def advance(self, at: Trajectory, output: Tensor, call: int) -> Trajectory:
        """Guidance, then the scheduler's step."""
        given = {"generator": at.history.generators, "eta": 0.0}  # eta: as diffusers' pipelines give it
        more = {name: value for name, value in given.items() if name in self._takes}
        step = at.history.scheduler.step(self.guided(output), self._t[call], at.x, return_dict=False, **more)
        return Trajectory(step[0].to(at.x.dtype), at.cond, at.history)

    def fork(self, at: Trajectory) -> Trajectory:
        """A copy with a scheduler and generators of its own."""
        history = _History(_twin(at.history.scheduler), [_same_state(g) for g in at.history.generators])
        return Trajectory(at.x.detach(), at.cond, history)

    def guided(self, output: Tensor) -> Tensor:
        """What the scheduler takes: guided, and without a learned variance."""
        output = output[:, : self._shape[0]]
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
) -> PipelineDenoiser:
    """A pipeline's network, scheduler and conditioning.

    prompts: texts, or class names and numbers; the pipeline's own classes or a few texts without them. conditions: given
    embeddings instead. size: picture side in pixels. guidance: the pipeline's own by default.
    Raises :class:`ModelError` for a pipeline of another kind, :class:`RecipeError` for what it cannot be asked for.
    """
    given = conditions_of(pipe, prompts, size) if conditions is None else conditions
    network = network_of(pipe)
    shape = latent_shape(pipe, network, size)
    scheduler = copy.deepcopy(pipe.scheduler)
    set_timesteps(scheduler, steps, network, shape)
    scale = guidance_of(pipe) if guidance is None else guidance
    return PipelineDenoiser(network, scheduler, given, shape, scale)


def _input_scales(scheduler: Any, timesteps: Sequence[Tensor]) -> list[float]:
    """The factor by which the scheduler scales the network's input, for each call."""
    if not hasattr(scheduler, "scale_model_input"):
        return [1.0] * len(timesteps)
    scratch, one = _twin(scheduler), torch.ones(1, 1, 1, 1, device=timesteps[0].device)
    scales = []
    for t in timesteps:
        scales.append(float(scratch.scale_model_input(one, t)))
        scratch.step(torch.zeros_like(one), t, one)
    return scales


def _twin(scheduler: Any) -> Any:
    """A scheduler with the same place and history, sharing no list and no gradient."""
    twin = copy.copy(scheduler)
    for name, value in vars(twin).items():
        if isinstance(value, Tensor):
            setattr(twin, name, value.detach())
        elif isinstance(value, list):
            setattr(twin, name, [v.detach() if isinstance(v, Tensor) else v for v in value])
    return twin


def _one_of(count: int, generator: torch.Generator) -> int:
    """A number below count. Where there is no choice nothing is drawn, and noise comes as in the pipeline."""
    return int(torch.randint(count, (), generator=generator)) if count > 1 else 0


def _same_state(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    return twin
