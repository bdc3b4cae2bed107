"""A pipeline's pictures for fixed prompts and noises, dense or accelerated: what a schedule search compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.recipe.recipe import Recipe
from .accelerate import Handle, accelerate, network_of
from .loading import draw_batch
from .schedule import PipelineSchedule


@dataclass(frozen=True)
class Samples:
    """What is drawn, always the same: picture i has prompt i (round and round) and noise of seed `seed + i`."""

    prompts: tuple[str, ...]
    count: int
    seed: int
    steps: int
    guidance: float | None = None
    size: int | None = None
    batch: int = 10

    def draw(self, pipe: Any, output: str, steps: int | None = None, done: Callable[[], Any] = lambda: None) -> Tensor:
        """All samples, dense or as the pipe is accelerated. done: told after each batch."""
        drawn = []
        for at in range(0, self.count, self.batch):
            which = range(at, min(self.count, at + self.batch))
            prompts = [self.prompts[i % len(self.prompts)] for i in which]
            seeds = [self.seed + i for i in which]
            images = draw_batch(pipe, prompts, seeds, steps or self.steps, self.guidance, self.size, output).images
            drawn.append(torch.as_tensor(images).cpu())
            done()
        return torch.cat(drawn)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what tells one set of samples from another."""
        return {**asdict(self), "prompts": list(self.prompts)}


@dataclass(frozen=True)
class PipelinePictures:
    """The samples drawn with one pipeline."""

    pipe: Any
    samples: Samples

    @property
    def network(self) -> nn.Module:
        """The denoiser."""
        return network_of(self.pipe)

    def timesteps(self) -> tuple[float, ...]:
        """Training timesteps of the last run."""
        return tuple(PipelineSchedule(self.pipe).timesteps())

    def draw(self, output: str, steps: int | None = None, done: Callable[[], Any] = lambda: None) -> Tensor:
        """See :meth:`Samples.draw`."""
        return self.samples.draw(self.pipe, output, steps, done)

    def accelerated(self, recipe: Recipe) -> Handle:
        """The pipeline under a recipe, as a context."""
        return accelerate(self.pipe, recipe)
