"""PSNR and SSIM against torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch

from skipstone.core.measure.fidelity import fidelity, ssim

image = pytest.importorskip("torchmetrics.functional.image")


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 3, 64, 48), (1, 3, 20, 13), (3, 1, 33, 32)], ids=str)
def test_the_figures_are_those_of_torchmetrics(shape: tuple[int, ...]) -> None:
    one, other = pictures(*shape), (pictures(*shape) + 0.1 * pictures(*shape, seed=1)).clamp(0, 1)
    found = fidelity(other, one)
    assert found.psnr_db == pytest.approx(float(image.peak_signal_noise_ratio(other, one, data_range=1.0)), abs=1e-3)
    expected = image.structural_similarity_index_measure(other, one, data_range=1.0)
    assert found.ssim == pytest.approx(float(expected), abs=1e-5)


def test_equal_pictures_and_each_picture_of_a_batch_for_itself() -> None:
    one = pictures(2, 3, 16, 16)
    assert fidelity(one, one) == type(fidelity(one, one))(math.inf, 1.0)
    other = torch.cat([one[:1], pictures(1, 3, 16, 16, seed=2)])
    assert ssim(other, one)[0] == pytest.approx(1.0) and ssim(other, one)[1] < 0.5
    assert fidelity(pictures(1, 3, 4, 4, seed=3), pictures(1, 3, 4, 4)).ssim < 0.9
