"""Trying a recipe on fixed prompts and noises: its error to the dense run and its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.accelerate import accelerate
from ...errors import ModelError
from ...pipelines.diffusers import PipelineSchedule
from ...pipelines.loading import draw_batch
from ...recipe import Recipe
from .cost import CostModel, watch
from .metrics import Metric


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
class Outcome:
    """error: the metric. macs: share of the dense run's multiply-adds. seconds: wall time of all samples."""

    error: float
    macs: float
    seconds: float


class Evaluator:
    """Draws the dense reference once, then tries recipes beside it. The same recipe is drawn once only."""

    def __init__(self, pipe: Any, samples: Samples, metric: Metric) -> None:
        """Draw the reference. Raises :class:`ModelError` for a pipeline that cannot be searched on."""
        self._pipe, self.samples, self._metric = pipe, samples, metric
        self._tried: dict[str, Outcome] = {}
        network = _network(pipe)
        started = perf_counter()
        with watch(network) as seen:
            self._reference = samples.draw(pipe, metric.output)
        self.dense_seconds = perf_counter() - started
        self.timesteps = tuple(PipelineSchedule(pipe).timesteps())
        if seen.first is None or not self.timesteps:
            raise ModelError(
                f"{type(pipe).__name__} has no schedule of calls to its network: use one of diffusers' own"
            )
        self.costs = CostModel(network, seen.first, self.timesteps)

    def __call__(self, recipe: Recipe) -> Outcome:
        """Try a recipe. Raises what its plan raises."""
        key = recipe.to_json()
        if key not in self._tried:
            self._tried[key] = self._try(recipe)
        return self._tried[key]

    def fewer_steps(self, steps: int) -> Outcome:
        """The dense pipeline with fewer steps of its sampler: the control that every recipe must beat."""
        started = perf_counter()
        drawn = self.samples.draw(self._pipe, self._metric.output, steps)
        calls = len(PipelineSchedule(self._pipe).timesteps())
        seconds = perf_counter() - started
        return Outcome(self._metric.error(drawn, self._reference), calls / len(self.timesteps), seconds)

    def _try(self, recipe: Recipe) -> Outcome:
        share, saved = self.costs.share(recipe), 0
        if share >= 1 and all(m is None or m.neutral for m in (recipe.merge, recipe.prune)):
            return Outcome(self._metric.error(self._reference, self._reference), 1.0, self.dense_seconds)
        with accelerate(self._pipe, recipe) as handle:

            def count() -> None:
                nonlocal saved
                report = handle.report()
                saved += report.macs_dense - report.macs_done

            started = perf_counter()
            drawn = self.samples.draw(self._pipe, self._metric.output, done=count)
            seconds = perf_counter() - started
        batches = self.samples.count / min(self.samples.count, self.samples.batch)
        dense = self.costs.per_call * len(self.timesteps) * batches
        return Outcome(self._metric.error(drawn, self._reference), share - saved / dense, seconds)


def _network(pipe: Any) -> nn.Module:
    return getattr(pipe, "unet", None) or pipe.transformer
