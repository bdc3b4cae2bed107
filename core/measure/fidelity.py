"""Fidelity to the unaccelerated run from the same noise. Pictures are compared with the numbers of torchmetrics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = 0.01**2, 0.03**2
"""Of SSIM, for values from 0 to 1."""


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

    def text(self) -> str:
        """The figures in one line; "identical" for equal pictures."""
        return "identical" if self.psnr_db == math.inf else f"PSNR {self.psnr_db:.1f} dB, SSIM {self.ssim:.3f}"


def faster(original: float, accelerated: float) -> str:
    """The ratio of two times as an end of a line; empty where one is not known.

    Args:
        original: seconds.
        accelerated: seconds.

    Example:
        >>> Fidelity(31.52, 0.97).text() + faster(2.0, 1.0)
        'PSNR 31.5 dB, SSIM 0.970, 2.00x faster'
    """
    return f", {original / accelerated:.2f}x faster" if original > 0 and accelerated > 0 else ""


def fidelity(pictures: Tensor, reference: Tensor) -> Fidelity:
    """PSNR over all pixels, and mean SSIM.

    Args:
        pictures: [B, C, H, W], from 0 to 1.
        reference: of the same shape.

    Example:
        >>> grey = torch.full((1, 3, 16, 16), 0.5)
        >>> round(fidelity(grey + 0.1, grey).psnr_db, 1)
        20.0
    """
    pictures, reference = pictures.float(), reference.float()
    error = float(functional.mse_loss(pictures, reference))
    psnr = -10 * math.log10(error) if error else math.inf
    return Fidelity(psnr, float(ssim(pictures, reference).mean()))


def ssim(pictures: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each picture: [B].

    Args:
        pictures: [B, C, H, W], from 0 to 1.
        reference: of the same shape.

    Example:
        >>> ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)).tolist()
        [1.0]
    """
    a, b = pictures.float(), reference.float()
    mean_a, mean_b, aa, bb, ab = (_blurred(x) for x in (a, b, a * a, b * b, a * b))
    var_a, var_b = (aa - mean_a**2).clamp(min=0), (bb - mean_b**2).clamp(min=0)
    means = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (means * (2 * (ab - mean_a * mean_b) + _C2) / (var_a + var_b + _C2)).flatten(1).mean(1)


def _blurred(x: Tensor) -> Tensor:
    """Gaussian mean around each pixel, of pictures [B, C, H, W] reflected at their edges."""
    radius = [min(_RADIUS, side - 1) for side in x.shape[2:]]
    x = functional.pad(x, [radius[1]] * 2 + [radius[0]] * 2, mode="reflect")
    for dim, reach in enumerate(radius, 2):
        places = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        weights = torch.exp(-((places / _SIGMA) ** 2) / 2)
        kernel = (weights / weights.sum()).view(-1, 1) if dim == 2 else (weights / weights.sum()).view(1, -1)
        x = functional.conv2d(x, kernel.expand(x.shape[1], 1, *kernel.shape), groups=x.shape[1])
    return x


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

    # All features are here: other processes of the same launch have no part in them.
    metric = FrechetInceptionDistance(feature=_AsGiven(features.shape[1]), sync_on_compute=False)
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
