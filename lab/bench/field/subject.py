"""What ways are compared on: a model with sampler, steps and guidance, its noises, and its dense run."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property, lru_cache
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ....core.calibrate.profiling import parts
from ....core.files import make_folder, write_safetensors
from ....core.measure.fidelity import relative_errors
from ....pipelines.denoiser import PipelineDenoiser, denoiser_of
from ....pipelines.noise import is_flow
from ....pipelines.samplers import check_sampler, set_sampler
from ...demo_models.loading import load_model
from ..same_noise import noise_of
from .options import Cell, FieldBench
from .way import DENSE, FEWER, Drawn, Way, draw

FIRST_SEED = 50_000
"""First seed of the reported noises: profiles, masks and calibrations use others."""


class Subject:
    """A cell of the field, on which ways are drawn.

    Args:
        cell: model, sampler, steps and guidance.
        options: of the command.

    Example:
        >>> Subject(Cell("demo-dit", "ddim", 20, 1.0), FieldBench(noises=2)).seeds
        range(50000, 50002)
    """

    def __init__(self, cell: Cell, options: FieldBench) -> None:
        """Nothing is loaded yet."""
        self.cell, self.options = cell, options
        self.seeds = range(FIRST_SEED, FIRST_SEED + options.noises)
        self._with = lru_cache(maxsize=None)(self._denoiser)

    @property
    def denoiser(self) -> PipelineDenoiser:
        """The model with the cell's sampler and steps. Raises :class:`SkipstoneError` for a sampler that it does not have."""
        return self._with(self.cell.sampler, self.cell.steps)

    def denoiser_for(self, way: Way) -> PipelineDenoiser:
        """Return the model with the sampler and the steps of a way.

        Args:
            way: to draw.
        """
        return self._with(way.sampler or self.cell.sampler, way.steps or self.cell.steps)

    def draw(self, way: Way) -> tuple[Drawn, Tensor]:
        """Return the first batch, on which all is counted, and the latents [B, ...] of all noises.

        Args:
            way: to draw.

        Raises :class:`SkipstoneError` where it does not apply.
        """
        denoiser, found = self.denoiser_for(way), []
        for number, seeds in enumerate(parts(self.seeds, self.options.batch)):
            shared = noise_of(self.denoiser, denoiser, seeds) if way.group == FEWER else nullcontext()
            with shared:
                found.append(draw(way, denoiser, seeds, watched=not number, counted=not number))
        return found[0], torch.cat([one.latents for one in found])

    @cached_property
    def dense(self) -> tuple[Drawn, Tensor]:
        """:meth:`draw` of the dense run."""
        return self.draw(Way("dense", DENSE))

    @cached_property
    def labels(self) -> list[int]:
        """Class of each sample; empty where the conditionings are no classes."""
        from ...demo_models.pipeline import IconPipeline

        known = isinstance(self._pipe(), IconPipeline)
        return [self.denoiser.condition_of(seed) for seed in self.seeds] if known else []

    def from_ode(self, latents: Tensor) -> list[float] | None:
        """Return each sample's relative error to the solution of the ODE; None where that is not known.

        Args:
            latents: [B, ...] of the same noises.
        """
        return None if self.ode is None else relative_errors(latents, self.ode).tolist()

    @cached_property
    def ode(self) -> Tensor | None:
        """The solution of the ODE from the same noises, by Heun's method with many steps; stored, since cells share it."""
        steps = self.options.ode_steps
        if not steps or self.denoiser.horizon.stochastic:
            return None
        folder = self.options.work
        file = (
            folder
            / f"ode-{Cell(self.cell.model, 'heun', steps, self.cell.guidance).file}-{self.options.noises}.safetensors"
        )
        if not file.exists():
            solver, batches = self._with("heun", steps), parts(self.seeds, self.options.batch)
            found = [draw(Way("dense", DENSE), solver, seeds, counted=False).latents.cpu() for seeds in batches]
            make_folder(folder)
            write_safetensors(file, {"latents": torch.cat(found).contiguous()}, {})
        return load_file(file)["latents"].to(self.dense[1].device)

    def _denoiser(self, sampler: str, steps: int) -> PipelineDenoiser:
        pipe = self._pipe()
        check_sampler(sampler, is_flow(pipe.scheduler))
        set_sampler(pipe, sampler)
        return denoiser_of(pipe, steps, self.cell.guidance)

    def _pipe(self) -> Any:
        return _loaded(self.cell.model, self.options.device, self.options.half)


@lru_cache(maxsize=1)
def _loaded(model: str, device: str, half: bool) -> Any:
    return load_model(model, device, half)


def picture_strip(latents: Tensor, count: int) -> Any:
    """Return the first pictures side by side, as a PIL picture; None for latents that are not of the shipped models.

    Args:
        latents: [B, ...], final ones.
        count: of pictures.

    Example:
        >>> picture_strip(torch.zeros(2, 12, 32, 32), count=6).size
        (128, 64)
    """
    from ...demo_models.pipeline import LATENT_SHAPE, to_pictures, to_pil

    if tuple(latents.shape[1:]) != LATENT_SHAPE:
        return None
    return to_pil(torch.cat(list(to_pictures(latents[:count].cpu())), dim=2)[None])[0]
