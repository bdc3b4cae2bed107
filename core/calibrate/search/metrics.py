"""Errors to the dense run, by name; each is smaller for better pictures, and 0 (psnr: -100) for equal ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ...errors import RecipeError
from ...measure.fidelity import fidelity, relative_error

BEST_DB = 100.0


@dataclass(frozen=True)
class Metric:
    """An error to minimise.

    Args:
        label: for tables and plots.
        output: of the pipeline: "latent", or "pt" for pictures [B, 3, H, W] in 0..1.
        error: (outputs, dense outputs) -> error.

    Example:
        >>> METRICS["psnr"].error(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.1))
        -20.0
    """

    label: str
    output: str
    error: Callable[[Tensor, Tensor], float]


def _minus_psnr(outputs: Tensor, dense: Tensor) -> float:
    """Negative peak signal-to-noise ratio in decibel, at least -100."""
    mse = float((outputs.double() - dense.double()).square().mean())
    return float(10 * torch.log10(torch.tensor(max(mse, 10 ** (-BEST_DB / 10)))))


def _minus_ssim(outputs: Tensor, dense: Tensor) -> float:
    """1 - mean structural similarity."""
    return 1 - fidelity(outputs, dense).ssim


METRICS = {
    "rel_l2": Metric("relative L2 error of the latent", "latent", relative_error),
    "psnr": Metric("minus PSNR to dense, dB", "pt", _minus_psnr),
    "ssim": Metric("1 - SSIM to dense", "pt", _minus_ssim),
}
"""Metrics that `--metric` takes; put another one in to search by it."""


def metric(name: str, more: Mapping[str, Metric] = MappingProxyType({})) -> Metric:
    """Return a metric by name.

    Args:
        name: of one of :data:`METRICS` or of `more`.
        more: metrics of the caller.

    Raises :class:`RecipeError` for other names.

    Example:
        >>> metric("rel_l2").label
        'relative L2 error of the latent'
    """
    known = {**METRICS, **more}
    if name not in known:
        raise RecipeError(f"no metric named {name!r}: choose one of {', '.join(known)}")
    return known[name]
