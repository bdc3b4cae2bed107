"""Training of a mask inside one of ComfyUI's sampling runs, which loads the model and frees memory for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import torch

from ..core.calibrate.masks.settings import TrainSettings
from ..core.calibrate.masks.trainer import Progress, Trained, train
from ..core.recipe.recipe import Recipe
from .denoiser import SamplerDenoiser
from .patch import patch_model
from .serving import family_of
from .weights import differentiable, outside_inference, wholly_loaded


@dataclass(frozen=True)
class Sampling:
    """What is sampled in training, as in ComfyUI's sampler node.

    Args:
        positive, negative: ComfyUI's conditionings.
        latent: an empty latent of the size to train for.
        steps: number of steps.
        cfg: guidance scale; 1 is no guidance.
        sampler_name, scheduler: ComfyUI's names.
    """

    positive: Any
    negative: Any
    latent: dict[str, Any]
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str


def train_mask(
    model: Any, sampling: Sampling, settings: TrainSettings, on_progress: Callable[[Progress], None]
) -> Trained:
    """Train a mask for a model.

    Args:
        model: a ModelPatcher. It is not changed.
        sampling: what is sampled.
        settings: how the mask is trained; samples are run `refine_batch` at a time.
        on_progress: called after each pass.

    Raises :class:`SkipstoneError` for a model, sampler or target that cannot be used.
    """
    family_of(model)
    gradients = _takes_gradients(settings)
    with torch.inference_mode(False) if gradients else nullcontext():
        alone = _without_caches(model)
        guider = comfy.samplers.CFGGuider(wholly_loaded(alone) if gradients else alone)
        guider.set_conds(outside_inference(sampling.positive), outside_inference(sampling.negative))
        guider.set_cfg(sampling.cfg)
        sampler = comfy.samplers.KSampler(
            model, sampling.steps, model.load_device, sampling.sampler_name, sampling.scheduler
        )
        empty = _empty(model, sampling.latent, settings.refine_batch)
        run = TrainingRun(comfy.samplers.sampler_object(sampling.sampler_name), settings, on_progress)
        guider.sample(torch.zeros_like(empty), empty, run, sampler.sigmas.clone(), disable_pbar=True, seed=0)
    assert run.trained is not None
    return run.trained


def _takes_gradients(settings: TrainSettings) -> bool:
    return settings.form != "search"


def _without_caches(model: Any) -> Any:
    """A clone without Skipstone's own plan and without ComfyUI's EasyCache, which also skip parts of a run."""
    clone = patch_model(model, Recipe())
    for kind in list(clone.wrappers):
        clone.remove_wrappers_with_key(kind, "easycache")
    return clone


def _empty(model: Any, latent: dict[str, Any], samples: int) -> torch.Tensor:
    """Zeros [samples, ...] in the model's own latent shape for the size of `latent`."""
    names = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    scales = {name: latent[name] for name in names if latent.get(name) is not None}
    one = comfy.sample.fix_empty_latent_channels(model, torch.zeros_like(latent["samples"][:1]), **scales)
    return torch.zeros_like(one).expand(samples, *one.shape[1:]).contiguous()


class TrainingRun(comfy.samplers.Sampler):
    """Replaces the sampler in one of ComfyUI's runs, and trains there."""

    def __init__(self, sampler: Any, settings: TrainSettings, on_progress: Callable[[Progress], None]) -> None:
        """Before the run.

        Args:
            sampler: the sampler whose steps are trained for.
            settings: how the mask is trained.
            on_progress: called after each pass.
        """
        self._sampler, self._settings, self._on_progress = sampler, settings, on_progress
        self.trained: Trained | None = None

    def sample(
        self, model_wrap: Any, sigmas: Any, extra_args: Any, callback: Any, noise: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Train. ComfyUI calls this as the sampler of a run.

        Args:
            model_wrap: the guider, whose model is loaded.
            sigmas: noise levels [steps + 1], falling.
            extra_args: with the model options.
            callback: not used.
            noise: of the shape of the latents.
            args, kwargs: not used.
        """
        denoiser = SamplerDenoiser(model_wrap, self._sampler, sigmas, noise.shape[1:], extra_args["model_options"])
        gradients = _takes_gradients(self._settings)
        if gradients:
            denoiser.check_gradients()
        with differentiable(denoiser.network) if gradients else nullcontext():
            name = type(model_wrap.inner_model).__name__
            self.trained = train(denoiser, self._settings, self._on_progress, model=name)
        return torch.zeros_like(noise)
