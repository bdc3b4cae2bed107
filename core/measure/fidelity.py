"""Fidelity to the un-accelerated run: same noise, result against result; pictures and distributions by torchmetrics."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Fidelity:
    """psnr_db: peak signal-to-noise ratio in decibel, inf for equal pictures. ssim: structural similarity, 1 for equal."""

    psnr_db: float
    ssim: float


def fidelity(pictures: Tensor, reference: Tensor) -> Fidelity:
    """pictures, reference [B, 3, H, W] in 0..1 -> PSNR over all pixels and mean SSIM."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    pictures, reference = pictures.float(), reference.float()
    psnr = peak_signal_noise_ratio(pictures, reference, data_range=1.0)
    ssim = structural_similarity_index_measure(pictures, reference, data_range=1.0)
    return Fidelity(float(psnr), float(ssim))  # type: ignore[arg-type]


def relative_errors(values: Tensor, reference: Tensor) -> Tensor:
    """Norm of the difference over the norm of the reference, for each sample of both [B, ...]: [B], float64 on the CPU."""
    difference, norm = (x.detach().cpu().double().flatten(1).norm(dim=1) for x in (values - reference, reference))
    return difference / norm.clamp(min=1e-12)


def relative_error(values: Tensor, reference: Tensor) -> float:
    """The mean of :func:`relative_errors`: the figure by which masks are selected and reported."""
    return float(relative_errors(values, reference).mean())


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Frechet distance between normal distributions fitted to features [B, D] and [B', D], two rows at least each."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_AsGiven(features.shape[1]))
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return max(0.0, float(metric.compute()))


class _AsGiven(nn.Module):
    """What torchmetrics takes its features from, where they are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
