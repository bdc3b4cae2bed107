"""Errors to the dense run, by name; each is smaller for better pictures and 0 (psnr: -100) for equal ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import RecipeError

BEST_DB = 100.0


@dataclass(frozen=True)
class Metric:
    """output: what the pipeline is asked for: "latent", or "pt" pictures [B, 3, H, W] in 0..1.

    error: (outputs, dense outputs) -> what is minimised.
    """

    label: str
    output: str
    error: Callable[[Tensor, Tensor], float]


def rel_l2(outputs: Tensor, dense: Tensor) -> float:
    """Norm of the difference over the norm of the dense run, mean over samples [B, ...]."""
    difference, norm = (x.double().flatten(1).norm(dim=1) for x in (outputs - dense, dense))
    return float((difference / norm.clamp(min=1e-12)).mean())


def minus_psnr(outputs: Tensor, dense: Tensor) -> float:
    """Negative peak signal-to-noise ratio in decibel, at least -100."""
    mse = float((outputs.double() - dense.double()).square().mean())
    return float(10 * torch.log10(torch.tensor(max(mse, 10 ** (-BEST_DB / 10)))))


def minus_ssim(outputs: Tensor, dense: Tensor) -> float:
    """1 - mean structural similarity."""
    from ...evaluate.fidelity import fidelity

    return 1 - fidelity(outputs, dense).ssim


def frechet(features: Tensor, dense: Tensor) -> float:
    """Frechet distance between normal distributions fitted to features [B, D]."""
    one, other = features.double(), dense.double()
    covariances = [(x - x.mean(0)).T @ (x - x.mean(0)) / max(1, len(x) - 1) for x in (one, other)]
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    trace = covariances[0].trace() + covariances[1].trace()
    return max(0.0, float((one.mean(0) - other.mean(0)).square().sum() + trace - 2 * cross))


def icon_frechet(outputs: Tensor, dense: Tensor) -> float:
    """:func:`frechet` of the demo classifier's features of icons [B, 3, 64, 64]."""
    from ...demo.classifier import load_classifier

    judge = load_classifier()
    with torch.no_grad():
        return frechet(judge.features(outputs.float()), judge.features(dense.float()))


METRICS = {
    "rel_l2": Metric("relative L2 error of the latent", "latent", rel_l2),
    "psnr": Metric("minus PSNR to dense, dB", "pt", minus_psnr),
    "ssim": Metric("1 - SSIM to dense", "pt", minus_ssim),
    "frechet": Metric("Frechet distance of icon features", "pt", icon_frechet),
}
"""Metrics that `--metric` takes; put another one in to search by it."""


def metric(name: str) -> Metric:
    """A metric by name. Raises :class:`RecipeError` for others."""
    if name not in METRICS:
        raise RecipeError(f"no metric named {name!r}: choose one of {', '.join(METRICS)}")
    return METRICS[name]
