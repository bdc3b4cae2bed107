"""The node that compares an accelerated picture with the original."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tiny
import torch
from comfy_models import said
from doubles import comfy


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable, and its server remembers what was shown on nodes."""
    with comfy.installed(monkeypatch) as server:
        yield server


def pictures(count: int = 2, height: int = 48, width: int = 64) -> torch.Tensor:
    return tiny.noise(count, height, width, 3).sigmoid()


def compared(*images: torch.Tensor, **options: float) -> list:
    from skipstone.nodes.compare import SkipstoneCompare

    return SkipstoneCompare.ran("9", original=images[0], accelerated=images[1], **options)


def test_the_difference_and_the_figures_are_those_of_the_pictures(server: comfy.PromptServer) -> None:
    one = pictures() * 0.8
    result = compared(one, one + 0.1, amplify=4.0)
    both, difference, psnr, ssim = result.args
    assert result.ui["text"] == [f"PSNR 20.0 dB, SSIM {ssim:.3f}"]
    assert torch.allclose(difference, torch.full_like(one, 0.4)) and psnr == pytest.approx(20.0, abs=1e-3)
    assert 0.5 < ssim < 1
    bar = both.shape[1] - 48
    assert both.shape == (2, 48 + bar, 2 * 64 + 8, 3) and 0 < bar < 24
    assert torch.equal(both[:, bar:, :64], one) and torch.equal(both[:, bar:, 72:], one + 0.1)


def test_equal_pictures_are_called_identical(server: comfy.PromptServer) -> None:
    one = pictures()
    result = compared(one, one.clone())
    assert result.args[2:] == (float("inf"), 1.0) and result.ui["text"] == ["identical"]


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        ((22.2, 12.0), "identical, 1.85x faster"),
        ((22.2, 0.0), "identical"),
        ((0.0, 1.0), "identical"),
    ],
)
def test_the_times_are_compared_where_both_are_given(
    server: comfy.PromptServer, seconds: tuple[float, float], line: str
) -> None:
    one, (original, accelerated) = pictures(), seconds
    result = compared(one, one, seconds_original=original, seconds_accelerated=accelerated)
    assert result.ui["text"] == [line]


def test_the_page_gets_a_file_for_each_picture(server: comfy.PromptServer) -> None:
    shown = compared(pictures(3), pictures(2)).ui
    assert [len(shown[key]) for key in ("skipstone_original", "skipstone_accelerated")] == [2, 2]
    assert all(file["type"] == "temp" for key, files in shown.items() if key != "text" for file in files)


def test_pictures_of_two_sizes_are_declined_in_one_line(server: comfy.PromptServer) -> None:
    text = "pictures of 64 x 48 and 32 x 48 pixels cannot be compared: use one size for both"
    result = compared(pictures(), pictures(width=32))
    assert said(server, "9") == text and result.args[2:] == (0.0, 0.0) and result.args[0].shape[-1] == 3


def test_alpha_does_not_count(server: comfy.PromptServer) -> None:
    one = pictures()
    assert compared(torch.cat([one, torch.zeros(2, 48, 64, 1)], dim=3), one).args[2] == float("inf")
