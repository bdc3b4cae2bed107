"""Ways of drawing the same icons from one noise: timed in turns, beside as many dense steps as fit into the same time."""

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
    """A way of drawing.

    Args:
        name: in tables.
        steps: of the sampler.
        recipe: that accelerates it; None for dense.

    Example:
        >>> Way("dense", steps=50).recipe is None
        True
    """

    name: str
    steps: int
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Drawn:
    """The result of one drawing.

    Args:
        latents: final ones, [10, 12, 32, 32].
        report: of the run; an empty one for dense.
        seconds: that it took.

    Example:
        >>> Drawn(torch.zeros(10, 12, 32, 32), Report(), seconds=1.5).seconds
        1.5
    """

    latents: Tensor
    report: Report
    seconds: float

    @property
    def pictures(self) -> Tensor:
        """Pictures [10, 3, 64, 64] in 0..1."""
        return to_pictures(self.latents)


@dataclass(frozen=True)
class Measured:
    """A way and its results.

    Args:
        way: of drawing.
        latents: final ones, [10, 12, 32, 32].
        report: of the run; an empty one for dense.
        seconds: median.
        macs: multiply-adds of a whole run.

    Example:
        >>> Measured(Way("dense", 50), torch.zeros(10, 12, 32, 32), Report(), 1.5, 10**9).pictures.shape
        torch.Size([10, 3, 64, 64])
    """

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
    """Draws ten icons from one noise.

    Args:
        pipe: of the demo.
        seed: of the noise.
        prompts: what to draw; all classes by default.

    Example:
        >>> from ..demo_models.model import load_demo
        >>> Drawing(load_demo("dit"), seed=0).by(Way("dense", steps=1)).latents.shape
        torch.Size([10, 12, 32, 32])
    """

    def __init__(self, pipe: IconPipeline, seed: int, prompts: Sequence[str] = CLASSES) -> None:
        """Draw the noise."""
        pipe.set_progress_bar_config(disable=True)
        self._pipe, self._prompts = pipe, tuple(prompts)
        shape = (len(prompts), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
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
        return call(self._prompts, steps)[0].cpu()

    def macs_per_call(self) -> int:
        """Multiply-adds of one dense call of the network, guidance's two halves."""
        noise, arguments = torch.cat([self._noise] * 2), self._pipe.encode(self._prompts * 2)
        return count_macs(lambda: self._pipe.predict(noise, torch.tensor(500, device=noise.device), arguments))


def measure(drawing: Drawing, ways: Sequence[Way], rounds: int, timed: int = 1) -> list[Measured]:
    """Measure some ways, and as a last row dense with as many steps as fit into the time of one of them.

    Seconds are medians of rounds in which all take turns, after a round to warm up.

    Args:
        drawing: of the icons.
        ways: the first is dense.
        rounds: number of timed rounds.
        timed: number of the way whose time counts.

    Example:
        >>> from types import SimpleNamespace
        >>> from skipstone.core.recipe.recipe import Recipe
        >>> still = Drawn(torch.zeros(10, 12, 32, 32), Report(), seconds=1.0)
        >>> drawing = SimpleNamespace(by=lambda way: still, macs_per_call=lambda: 10)
        >>> rows = measure(drawing, [Way("dense", 4), Way("Skipstone", 4, Recipe())], rounds=1)
        >>> [(row.way.name, row.macs) for row in rows]
        [('dense', 40), ('Skipstone', 40), ('dense, 4 steps', 40)]
    """
    drawing.by(Way("to warm up", steps=1))
    drawn = [drawing.by(way) for way in ways]
    fewer = _fewer_steps(ways[0].steps, drawn[timed].seconds / drawn[0].seconds)
    if fewer.name not in (way.name for way in ways):
        ways, drawn = [*ways, fewer], [*drawn, drawing.by(fewer)]
    times = interleave({way.name: partial(drawing.by, way) for way in ways}, rounds, warm=True)
    per_call = drawing.macs_per_call()
    return [
        Measured(way, one.latents, one.report, times[way.name].median, spent(one.report, per_call, way.steps))
        for way, one in zip(ways, drawn, strict=True)
    ]


def spent(report: Report, per_call: int, steps: int) -> int:
    """Multiply-adds of a run: those of the calls that ran, less what tokens and blocks saved in them.

    Args:
        report: of the run; an empty one for a dense run.
        per_call: multiply-adds of a dense call.
        steps: calls of the run.

    Example:
        >>> spent(Report(calls=4, calls_forecast=1), per_call=10, steps=4)
        30
    """
    saved = report.macs_dense - report.macs_done + report.block_macs_all - report.block_macs_run
    return per_call * (steps - report.calls_forecast) - saved


def _fewer_steps(steps: int, share: float) -> Way:
    fewer = max(2, round(steps * min(1.0, share)))
    return Way(f"dense, {fewer} steps", fewer)
