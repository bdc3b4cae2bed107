"""Trying a recipe on fixed prompts and noises: its error to the dense run, and its cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

from torch import Tensor, nn

from ...errors import ModelError
from ...recipe.recipe import Recipe
from .cost import CostModel, watch
from .metrics import Metric


class Pictures(Protocol):
    """A source of pictures that are the same whenever the settings are (:class:`skipstone.pipelines.pictures.PipelinePictures`)."""

    @property
    def samples(self) -> Any:
        """What is drawn: `count` pictures in batches of `batch`."""

    @property
    def network(self) -> nn.Module:
        """The denoiser."""

    def timesteps(self) -> tuple[float, ...]:
        """Training timesteps of the last run's calls; empty if unknown."""

    def draw(self, output: str, steps: int | None = None, done: Callable[[], Any] = lambda: None) -> Tensor:
        """Draw all pictures.

        Args:
            output: "latent", or "pt" for pictures [B, 3, H, W] in 0..1.
            steps: of the sampler; its usual number if None.
            done: called after each batch.
        """

    def accelerated(self, recipe: Recipe) -> AbstractContextManager[Any]:
        """Context manager in which a recipe is applied; its value has a `report()` of the last batch."""


@dataclass(frozen=True)
class Outcome:
    """The result of one recipe.

    Args:
        error: by the metric.
        macs: share of the dense run's multiply-adds.
        seconds: wall time of all samples.

    Example:
        >>> Outcome(error=0.05, macs=0.6, seconds=12.0).macs
        0.6
    """

    error: float
    macs: float
    seconds: float


class Evaluator:
    """Draws the dense reference once, then compares recipes with it. Each recipe is drawn once.

    Args:
        pictures: source of pictures.
        metric: error to the dense pictures.

    Example:
        >>> from skipstone.core.calibrate.search.metrics import METRICS
        >>> class Grey:
        ...     samples, network = None, nn.Identity()
        ...     def draw(self, output):
        ...         return self.network(Tensor(1))
        ...     def timesteps(self):
        ...         return ()
        >>> Evaluator(Grey(), METRICS["rel_l2"])
        Traceback (most recent call last):
        skipstone.core.errors.ModelError: the pipeline has no schedule of calls to its network: use one of diffusers' own
    """

    def __init__(self, pictures: Pictures, metric: Metric) -> None:
        """Draw the reference. Raises :class:`ModelError` for a pipeline that cannot be searched on."""
        self._pictures, self._metric, self.samples = pictures, metric, pictures.samples
        self._tried: dict[str, Outcome] = {}
        network = pictures.network
        started = perf_counter()
        with watch(network) as seen:
            self._reference = pictures.draw(metric.output)
        self.dense_seconds = perf_counter() - started
        self.timesteps = pictures.timesteps()
        if seen.first is None or not self.timesteps:
            raise ModelError("the pipeline has no schedule of calls to its network: use one of diffusers' own")
        self.costs = CostModel(network, seen.first, self.timesteps)

    def __call__(self, recipe: Recipe) -> Outcome:
        """Return the result of a recipe. Raises the errors of its plan."""
        key = recipe.to_json()
        if key not in self._tried:
            self._tried[key] = self._try(recipe)
        return self._tried[key]

    def fewer_steps(self, steps: int) -> Outcome:
        """Draw dense with fewer steps of the sampler: the control that every recipe must beat."""
        started = perf_counter()
        drawn = self._pictures.draw(self._metric.output, steps)
        calls = len(self._pictures.timesteps())
        seconds = perf_counter() - started
        return Outcome(self._metric.error(drawn, self._reference), calls / len(self.timesteps), seconds)

    def _try(self, recipe: Recipe) -> Outcome:
        share, saved = self.costs.share(recipe), 0
        if share >= 1 and all(m is None or m.neutral for m in (recipe.merge, recipe.prune)):
            return Outcome(self._metric.error(self._reference, self._reference), 1.0, self.dense_seconds)
        with self._pictures.accelerated(recipe) as handle:

            def count() -> None:
                nonlocal saved
                report = handle.report()
                saved += report.macs_dense - report.macs_done

            started = perf_counter()
            drawn = self._pictures.draw(self._metric.output, done=count)
            seconds = perf_counter() - started
        batches = self.samples.count / min(self.samples.count, self.samples.batch)
        dense = self.costs.per_call * len(self.timesteps) * batches
        return Outcome(self._metric.error(drawn, self._reference), share - saved / dense, seconds)
