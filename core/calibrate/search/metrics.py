"""Errors to the dense run, by name; each is smaller for better pictures and 0 (psnr: -100) for equal ones."""

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
    """output: what the pipeline is asked for: "latent", or "pt" pictures [B, 3, H, W] in 0..1.

    error: (outputs, dense outputs) -> what is minimised.
    """

    label: str
    output: str
    error: Callable[[Tensor, Tensor], float]


def minus_psnr(outputs: Tensor, dense: Tensor) -> float:
    """Negative peak signal-to-noise ratio in decibel, at least -100."""
    mse = float((outputs.double() - dense.double()).square().mean())
    return float(10 * torch.log10(torch.tensor(max(mse, 10 ** (-BEST_DB / 10)))))


def minus_ssim(outputs: Tensor, dense: Tensor) -> float:
    """1 - mean structural similarity."""
    return 1 - fidelity(outputs, dense).ssim


METRICS = {
    "rel_l2": Metric("relative L2 error of the latent", "latent", relative_error),
    "psnr": Metric("minus PSNR to dense, dB", "pt", minus_psnr),
    "ssim": Metric("1 - SSIM to dense", "pt", minus_ssim),
}
"""Metrics that `--metric` takes; put another one in to search by it."""


def metric(name: str, more: Mapping[str, Metric] = MappingProxyType({})) -> Metric:
    """A metric by name, one of these or of `more`. Raises :class:`RecipeError` for others."""
    known = {**METRICS, **more}
    if name not in known:
        raise RecipeError(f"no metric named {name!r}: choose one of {', '.join(known)}")
    return known[name]
