"""How close a mask's results are to the dense ones: on the same noises, and as distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.calibrate.masks.gated import Caches, CallGates
from ...core.calibrate.masks.losses import feature_loss
from ...core.calibrate.masks.masked_model import MaskedModel, running
from ...core.measure.fidelity import frechet_distance, relative_errors

_LEAST = 1e-9


@dataclass(frozen=True)
class Closeness:
    """How close some results are to the dense ones.

    Args:
        rel_l2: mean over the samples of |x - dense| / |dense|, final latents.
        typical: the geometric mean of the same.
        psnr_db: of the pictures, in decibel; inf for equal ones.
        frechet: distance of the features' distributions; nan without a feature extractor.
        share: of the multiply-adds.

    Example:
        >>> Closeness(0.1, 0.08, 31.0, 0.2, share=0.5).share
        0.5
    """

    rel_l2: float
    typical: float
    psnr_db: float
    frechet: float
    share: float


def _psnr(x: Tensor, dense: Tensor) -> float:
    error = float((x - dense).square().mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


@dataclass(frozen=True)
class DenseReference:
    """Compares final latents with the dense run's, on fixed noises.

    Args:
        dense: final latents [B, ...] of the dense run.
        pictures: latents -> pictures [B, C, H, W] in 0..1; the latents themselves if None.
        features: pictures -> [B, D], for the Frechet distance.

    Example:
        >>> dense = torch.ones(2, 4)
        >>> round(DenseReference(dense)(dense * 1.1, share=0.5).rel_l2, 3)
        0.1
    """

    dense: Tensor
    pictures: Callable[[Tensor], Tensor] | None = None
    features: Callable[[Tensor], Tensor] | None = None

    def __call__(self, latents: Tensor, share: float = 1.0) -> Closeness:
        """Compare.

        Args:
            latents: [B, ...] of the same samples.
            share: of the multiply-adds, for the result.
        """
        show = self.pictures or (lambda x: x.float())
        mine, theirs = show(latents), show(self.dense)
        far = float("nan") if self.features is None else frechet_distance(self.features(mine), self.features(theirs))
        errors = relative_errors(latents, self.dense)
        typical = float(errors.clamp_min(_LEAST).log().mean().exp())
        return Closeness(float(errors.mean()), typical, _psnr(mine, theirs), far, share)


def icon_reference(dense: Tensor) -> DenseReference:
    """A reference for the demo's models: pictures by their pixel shuffle, features by the shipped classifier.

    Example:
        >>> dense = torch.rand(3, 12, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> icon_reference(dense)(dense).psnr_db
        inf
    """
    from ..demo_models.classifier import load_classifier
    from ..demo_models.pipeline import to_pictures

    classifier = load_classifier()

    @torch.no_grad()
    def features(pictures: Tensor) -> Tensor:
        return classifier.features(pictures)

    return DenseReference(dense.cpu(), lambda x: to_pictures(x.cpu()), features)


def closeness_of(model: MaskedModel, reference: DenseReference, run: np.ndarray, seeds: Sequence[int]) -> Closeness:
    """How close a mask's results are on the reference's noises.

    Args:
        model: that is masked.
        reference: dense results of the same seeds.
        run: mask bool [T, L].
        seeds: of the samples.

    Example:
        >>> from types import SimpleNamespace
        >>> model = SimpleNamespace(rollout=lambda seeds, run: torch.ones(2, 4), costs=SimpleNamespace(share=lambda run: 0.5))
        >>> closeness_of(model, DenseReference(torch.ones(2, 4)), np.array([[True], [False]]), [0, 1]).share
        0.5
    """
    return reference(model.rollout(seeds, run), model.costs.share(run))


@torch.no_grad()
def own_loss(model: MaskedModel, run: np.ndarray, seeds: Sequence[int]) -> float:
    """Mean over the calls of the feature loss that training per call lowers (Eq. 5), along the run of a mask.

    Args:
        model: that is masked.
        run: mask bool [T, L].
        seeds: of the samples.

    Example:
        >>> from diffusers import DDIMScheduler, DiTTransformer2DModel
        >>> from skipstone.core.calibrate.masks.masked_model import prepare
        >>> from skipstone.pipelines.conditions import Conditions
        >>> from skipstone.pipelines.denoiser import PipelineDenoiser
        >>> dit, scheduler = DiTTransformer2DModel(1, 8, num_layers=2, sample_size=4), DDIMScheduler()
        >>> scheduler.set_timesteps(2)
        >>> labels = Conditions({"class_labels": torch.tensor([1])})
        >>> model = prepare(PipelineDenoiser(dit.eval(), scheduler, labels, shape=(4, 4, 4)))
        >>> own_loss(model, np.ones(model.shape, dtype=bool), [0])
        0.0
    """
    at = model.denoiser.begin(seeds)
    caches: Caches | None = None
    rows, losses = running(run, model.graph), []
    for call in range(model.calls):
        dense = model.dense(at, call)
        masked = model.masked(at, call, CallGates(rows[call]), caches)
        losses.append(float(feature_loss(masked.end, dense.end)))
        at, caches = model.denoiser.advance(at, masked.output, call), masked.caches
    return float(np.mean(losses))
