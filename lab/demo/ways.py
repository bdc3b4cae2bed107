"""Ways of drawing the same icons from one noise: measured in turns, beside fewer dense steps in the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from torch import Tensor

from ...core.engine.report import Report
from ...core.measure.macs import count_macs
from ...core.measure.timing import interleave
from ...core.recipe.recipe import Recipe
from ...pipelines.accelerate import accelerate
from ..demo_models.pictures import CLASSES
from ..demo_models.pipeline import LATENT_CHANNELS, LATENT_SIZE, IconPipeline, to_pictures


@dataclass(frozen=True)
class Way:
    """A way of drawing. steps: of the sampler. recipe: what accelerates it, None for dense."""

    name: str
    steps: int
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Drawn:
    """What one drawing gave: final latents [10, 12, 32, 32], the report (an empty one where dense), seconds."""

    latents: Tensor
    report: Report
    seconds: float


@dataclass(frozen=True)
class Measured:
    """A way and what it gave: final latents [10, 12, 32, 32], report, median seconds, multiply-adds of the whole run."""

    way: Way
    latents: Tensor
    report: Report
    seconds: float
    macs: int

    @property
    def pictures(self) -> Tensor:
        """Pictures [10, 3, 64, 64] in 0..1."""
        return to_pictures(self.latents)


class Drawing:
    """Draws all ten classes from one noise."""

    def __init__(self, pipe: IconPipeline, seed: int) -> None:
        """seed: of the noise."""
        pipe.set_progress_bar_config(disable=True)
        self._pipe, self._labels = pipe, torch.arange(len(CLASSES))
        shape = (len(CLASSES), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
        self._noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(pipe.device)

    def by(self, way: Way) -> Drawn:
        """Draw once."""
        started = perf_counter()
        if way.recipe is None:
            return Drawn(self._latents(way.steps), Report(), perf_counter() - started)
        with accelerate(self._pipe, way.recipe) as handle:
            latents = self._latents(way.steps)
            return Drawn(latents, handle.report(), perf_counter() - started)

    def _latents(self, steps: int) -> Tensor:
        call = partial(self._pipe, latents=self._noise, output_type="latent", return_dict=False)
        return call(self._labels, steps)[0].cpu()

    def macs_per_call(self) -> int:
        """Multiply-adds of one dense call of the network, guidance's two halves."""
        noise, labels = torch.cat([self._noise] * 2), self._labels.repeat(2).to(self._noise.device)
        return count_macs(lambda: self._pipe.predict(noise, torch.tensor(500, device=noise.device), labels))


def measure(drawing: Drawing, ways: Sequence[Way], rounds: int) -> list[Measured]:
    """The ways' rows, and a last one: dense in as many steps as fit into the second way's time. The first way is dense.

    Seconds are medians of `rounds` rounds in which all take turns, after a round to warm up.
    """
    drawing.by(Way("to warm up", steps=1))
    drawn = [drawing.by(way) for way in ways]
    fewer = _fewer_steps(ways[0].steps, drawn[1].seconds / drawn[0].seconds)
    ways, drawn = [*ways, fewer], [*drawn, drawing.by(fewer)]
    times = interleave({way.name: partial(drawing.by, way) for way in ways}, rounds)
    per_call = drawing.macs_per_call()
    return [
        Measured(way, one.latents, one.report, times[way.name].median, per_call * way.steps - saved(one.report))
        for way, one in zip(ways, drawn, strict=True)
    ]


def saved(report: Report) -> int:
    """Multiply-adds that a run was spared, by tokens and by blocks."""
    return report.macs_dense - report.macs_done + report.block_macs_all - report.block_macs_run


def _fewer_steps(steps: int, share: float) -> Way:
    fewer = max(2, round(steps * min(1.0, share)))
    return Way(f"dense, {fewer} steps", fewer)
