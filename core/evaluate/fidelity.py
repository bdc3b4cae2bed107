"""Fidelity to the un-accelerated run: same seed, picture against picture (torchmetrics)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
