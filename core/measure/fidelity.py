"""Fidelity to the unaccelerated run from the same noise. Pictures and distributions are compared by torchmetrics."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Fidelity:
    """How similar pictures are to their references.

    Args:
        psnr_db: peak signal-to-noise ratio in decibel, inf for equal pictures.
        ssim: structural similarity (SSIM), 1 for equal pictures.

    Example:
        >>> Fidelity(psnr_db=31.5, ssim=0.97).ssim
        0.97
    """

    psnr_db: float
    ssim: float


def fidelity(pictures: Tensor, reference: Tensor) -> Fidelity:
    """PSNR over all pixels, and mean SSIM. Needs torchmetrics.

    Args:
        pictures: [B, 3, H, W], from 0 to 1.
        reference: of the same shape.

    Example:
        >>> import torch
        >>> grey = torch.full((1, 3, 16, 16), 0.5)
        >>> round(fidelity(grey + 0.1, grey).psnr_db, 1)
        20.0
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    pictures, reference = pictures.float(), reference.float()
    psnr = peak_signal_noise_ratio(pictures, reference, data_range=1.0)
    ssim = structural_similarity_index_measure(pictures, reference, data_range=1.0)
    return Fidelity(float(psnr), float(ssim))  # type: ignore[arg-type]


def relative_errors(values: Tensor, reference: Tensor) -> Tensor:
    """Norm of the difference divided by the norm of the reference, for each sample: float64 [B] on the CPU.

    Args:
        values: [B, ...].
        reference: of the same shape.

    Example:
        >>> import torch
        >>> relative_errors(torch.tensor([[3.0, 4.5]]), torch.tensor([[3.0, 4.0]])).tolist()
        [0.1]
    """
    difference, norm = (x.detach().cpu().double().flatten(1).norm(dim=1) for x in (values - reference, reference))
    return difference / norm.clamp(min=1e-12)


def relative_error(values: Tensor, reference: Tensor) -> float:
    """The mean of :func:`relative_errors`, by which masks are selected and reported.

    Args:
        values: [B, ...].
        reference: of the same shape.

    Example:
        >>> import torch
        >>> relative_error(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [1.0]]))
        0.5
    """
    return float(relative_errors(values, reference).mean())


def frechet_distance(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance between normal distributions fitted to two sets of features (FID, arXiv 1706.08500). Needs torchmetrics.

    Args:
        features: [B, D], at least two rows.
        reference: [B', D], at least two rows.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> round(frechet_distance(rows + 1, rows), 3)
        2.0
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_AsGiven(features.shape[1]))
    metric.update(reference.double(), real=True)
    metric.update(features.double(), real=False)
    return max(0.0, float(metric.compute()))


class _AsGiven(nn.Module):
    """A feature extractor for torchmetrics that returns its input, which is features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
