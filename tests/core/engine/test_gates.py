"""Gates that decide during a run: what their sums are made of."""

from __future__ import annotations

import pytest
import tiny
import torch

from skipstone.core.engine.gates import SeaCacheGate, picture_part
from skipstone.core.forecast.space import Noise

CLEAR, NOISY = Noise(1.0, 0.0, "eps"), Noise(0.1, 0.995, "eps")


def wave(turns: int, size: int = 16) -> torch.Tensor:
    """A cosine along the width [1, 4, size, size]."""
    return torch.cos(2 * torch.pi * turns * torch.arange(size) / size).expand(1, 4, size, size)


def test_much_noise_leaves_the_coarse_part_and_no_noise_leaves_all() -> None:
    coarse, fine = wave(1), wave(6)
    for x in (coarse, fine):
        torch.testing.assert_close(picture_part(x, CLEAR), x, atol=1e-5, rtol=1e-5)
    kept = [float(picture_part(x, NOISY).norm() / x.norm()) for x in (coarse, fine)]
    assert kept[0] > 4 * kept[1]


def test_a_videos_power_falls_faster_along_each_side() -> None:
    """As 1/f^3; two gains by hand."""
    x = wave(4, 8).unsqueeze(2).expand(1, 4, 8, 8, 8)
    power = torch.fft.fftfreq(8).abs() ** 3
    gains = 1 / (NOISY.alpha**2 + NOISY.sigma**2 * power)
    along = gains[4] * gains[0] ** 2 / gains.mean() ** 3
    torch.testing.assert_close(picture_part(x, NOISY), along * x, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 4, 16), (2, 4, 8, 12), (1, 4, 3, 8, 8)])
def test_the_gains_have_mean_one_whatever_the_noise(shape: tuple[int, ...]) -> None:
    """An impulse holds every frequency once: its filtered value at the origin is the mean gain."""
    impulse = torch.zeros(shape)
    impulse[(..., *[0] * (len(shape) - 2))] = 1
    for noise in (NOISY, Noise(0.7, 0.7, "v"), Noise.of_flow(1.0)):
        assert picture_part(impulse, noise)[(0, 0, *[0] * (len(shape) - 2))] == pytest.approx(1, abs=1e-4)


def test_noise_that_changes_does_not_open_the_gate_of_seacache_and_the_picture_does() -> None:
    picture = 2 * wave(1)
    for changed, opened in ((picture + tiny.noise(1, 4, 16, 16, seed=2), False), (1.6 * picture, True)):
        gate, first = SeaCacheGate(threshold=0.5), picture + tiny.noise(1, 4, 16, 16, seed=1)
        gate.ran(first, first, NOISY)
        assert gate.opens(changed, NOISY) is opened


def test_distances_add_up_and_a_call_that_ran_begins_again() -> None:
    gate, x = SeaCacheGate(threshold=0.25), wave(2)
    gate.ran(x, x, CLEAR)
    assert [gate.opens(1.1 * x, CLEAR), gate.opens(1.2 * x, CLEAR), gate.opens(1.3 * x, CLEAR)] == [False, False, True]
    gate.ran(1.3 * x, x, CLEAR)
    assert not gate.opens(1.4 * x, CLEAR)
    assert gate.opens(x, None), "without a noise level the network runs"
