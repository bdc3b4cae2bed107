"""Draws a pipeline's pictures for fixed prompts and noises, dense or accelerated, for schedule searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.recipe.recipe import Recipe
from .accelerate import Handle, accelerate
from .loading import draw_batch
from .network import network_of
from .schedule import PipelineSchedule


@dataclass(frozen=True)
class Samples:
    """Fixed samples: picture i has prompt i (repeated in a cycle) and noise of seed `seed + i`.

    Args:
        prompts: texts or classes.
        count: number of pictures.
        seed: of the first picture.
        steps: number of sampler steps.
        guidance: scale of classifier-free guidance; the pipeline's own by default.
        size: picture side in pixels; the model's own by default.
        batch: pictures per batch.

    Example:
        >>> Samples(prompts=("a cat",), count=2, seed=7, steps=20).to_dict()["prompts"]
        ['a cat']
    """

    prompts: tuple[str, ...]
    count: int
    seed: int
    steps: int
    guidance: float | None = None
    size: int | None = None
    batch: int = 10

    def draw(self, pipe: Any, output: str, steps: int | None = None, done: Callable[[], Any] = lambda: None) -> Tensor:
        """Draw all samples.

        Args:
            pipe: a diffusers pipeline, accelerated or not.
            output: the pipeline's `output_type`.
            steps: replaces the samples' own number of steps.
            done: called after each batch.

        Returns:
            Pictures or latents [count, ...] on the CPU.
        """
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
        """Return plain values, which differ for different samples."""
        return {**asdict(self), "prompts": list(self.prompts)}


@dataclass(frozen=True)
class PipelinePictures:
    """The samples of one pipeline.

    Args:
        pipe: a diffusers pipeline.
        samples: what to draw.

    Example:
        >>> from types import SimpleNamespace
        >>> PipelinePictures(SimpleNamespace(unet=nn.Identity()), Samples(("a cat",), count=1, seed=0, steps=20)).network
        Identity()
    """

    pipe: Any
    samples: Samples

    @property
    def network(self) -> nn.Module:
        """The U-Net or transformer."""
        return network_of(self.pipe)

    def timesteps(self) -> tuple[float, ...]:
        """Return the training timesteps of the last run."""
        return tuple(PipelineSchedule(self.pipe).timesteps())

    def draw(self, output: str, steps: int | None = None, done: Callable[[], Any] = lambda: None) -> Tensor:
        """Draw all samples (:meth:`Samples.draw`).

        Args:
            output: the pipeline's `output_type`.
            steps: replaces the samples' own number of steps.
            done: called after each batch.
        """
        return self.samples.draw(self.pipe, output, steps, done)

    def accelerated(self, recipe: Recipe) -> Handle:
        """Return the pipeline with a recipe, as a context manager."""
        return accelerate(self.pipe, recipe)
