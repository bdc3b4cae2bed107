"""How near a mask's results come to the dense ones: on the same noises, and as distributions."""

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
    """rel_l2: mean over the samples of |x - dense| / |dense|, final latents. typical: the geometric mean of the same.

    psnr_db: of the pictures, inf for equal ones. frechet: distance of the features' distributions, nan without a feature
    extractor. share: of the multiply-adds.
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
    """Compares final latents with the dense run's, on noises of their own.

    pictures: latents -> pictures [B, C, H, W] in 0..1. features: pictures -> [B, D], for the Frechet distance.
    """

    dense: Tensor
    pictures: Callable[[Tensor], Tensor] | None = None
    features: Callable[[Tensor], Tensor] | None = None

    def __call__(self, latents: Tensor, share: float = 1.0) -> Closeness:
        """latents [B, ...] of the same samples."""
        show = self.pictures or (lambda x: x.float())
        mine, theirs = show(latents), show(self.dense)
        far = float("nan") if self.features is None else frechet_distance(self.features(mine), self.features(theirs))
        errors = relative_errors(latents, self.dense)
        typical = float(errors.clamp_min(_LEAST).log().mean().exp())
        return Closeness(float(errors.mean()), typical, _psnr(mine, theirs), far, share)


def icon_reference(dense: Tensor) -> DenseReference:
    """For the demo's models: pictures by their pixel shuffle, features by the shipped classifier."""
    from ..demo_models.classifier import load_classifier
    from ..demo_models.pipeline import to_pictures

    classifier = load_classifier()

    @torch.no_grad()
    def features(pictures: Tensor) -> Tensor:
        return classifier.features(pictures)

    return DenseReference(dense.cpu(), lambda x: to_pictures(x.cpu()), features)


def closeness_of(model: MaskedModel, reference: DenseReference, run: np.ndarray, seeds: Sequence[int]) -> Closeness:
    """A mask's results on the reference's noises."""
    return reference(model.rollout(seeds, run), model.costs.share(run))


@torch.no_grad()
def own_loss(model: MaskedModel, run: np.ndarray, seeds: Sequence[int]) -> float:
    """Mean over the calls of the feature loss that training per call lowers (Eq. 5), along the run of a mask bool [T, L]."""
    at = model.denoiser.begin(seeds)
    caches: Caches | None = None
    rows, losses = running(run, model.graph), []
    for call in range(model.calls):
        dense = model.dense(at, call)
        masked = model.masked(at, call, CallGates(rows[call]), caches)
        losses.append(float(feature_loss(masked.end, dense.end)))
        at, caches = model.denoiser.advance(at, masked.output, call), masked.caches
    return float(np.mean(losses))
