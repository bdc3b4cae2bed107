"""Streams of the device, threads, autocast, memory formats and attention kernels, as users' programs have them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import tiny
import torch
from gpu import DEVICE, HALVES, SHOWN, apart, exact, moved, needs_cuda, pipeline
from torch.nn.attention import SDPBackend, sdpa_kernel

from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

MERGE = TokenMerge(threshold=-1.0, bucket=1, max_downsample=8)
RECIPES: dict[str, Any] = {
    "calls": CallSkip(every=2),
    "blocks": BlockSkip(rule="interval", every=2),
    "offloaded blocks": BlockSkip(rule="interval", every=2, offload=True),
    "merge": MERGE,
    "prune": TokenPrune(ratio=0.5, max_downsample=8),
    "all": Recipe.of([CallSkip(every=2), BlockSkip(rule="interval", every=2), MERGE]),
}
SAME = 1e-5
"""Furthest that a picture may be from the same one on another stream."""


@pytest.fixture(autouse=True)
def in_order() -> Any:
    """Everything here is computed in a fixed order."""
    with exact():
        yield


@needs_cuda
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_on_a_stream_of_the_users(recipe: str) -> None:
    """While the default stream is busy, so that a value that is read there too early is wrong."""
    running, stream = pipeline("text_to_image"), torch.cuda.Stream()
    with accelerate(running.pipe, RECIPES[recipe]):
        wanted = running()
        busy = torch.randn(4096, 4096, device=DEVICE)
        torch.cuda.synchronize()
        for _ in range(20):
            busy = (busy @ busy).clamp(-1, 1)
        with torch.cuda.stream(stream):
            picture = running()
        stream.synchronize()
    assert apart(picture, wanted) < SAME


@needs_cuda
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_pipelines_in_two_threads_on_two_streams(recipe: str) -> None:
    pipes = [pipeline("text_to_image"), pipeline("flux")]
    handles = [accelerate(running.pipe, RECIPES[recipe]) for running in pipes]
    wanted = [running() for running in pipes]

    def work(number: int) -> list[torch.Tensor]:
        with torch.cuda.stream(torch.cuda.Stream()):
            pictures = [pipes[number]() for _ in range(3)]
            torch.cuda.current_stream().synchronize()
        return pictures

    torch.cuda.synchronize()
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(work, range(2)))
    for handle in handles:
        handle.remove()
    for one, pictures in zip(wanted, found, strict=True):
        assert all(apart(picture, one) < SAME for picture in pictures)


@pytest.mark.parametrize("dtype", HALVES, **SHOWN)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["text_to_image", "sd3", "flux"])
def test_autocast_of_fp32_weights(name: str, recipe: str, dtype: torch.dtype) -> None:
    """The plan is that without it, and the picture as near as the unaccelerated one's, in which no call repeats another's error."""
    running = pipeline(name)
    dense = running()
    with torch.autocast(DEVICE.type, dtype):
        rounded = apart(running(), dense)
    with accelerate(running.pipe, RECIPES[recipe]) as handle:
        wanted, plan = running(), handle.report()
        with torch.autocast(DEVICE.type, dtype):
            picture, report = running(), handle.report()
    assert report.calls_forecast == plan.calls_forecast and report.declined == plan.declined
    assert report.blocks_reused == plan.blocks_reused and report.served == plan.served
    assert picture.isfinite().all() and not any("not accelerated" in note for note in report.notes)
    if recipe in ("calls", "blocks", "offloaded blocks"):  # in halves, other pairs are the most alike
        assert apart(picture, wanted) < 10 * rounded + 1e-3


@pytest.mark.parametrize("recipe", RECIPES)
def test_channels_last(recipe: str) -> None:
    running = pipeline("text_to_image")
    with accelerate(running.pipe, RECIPES[recipe]) as handle:
        wanted, plan = running(), handle.report()
    running.network.to(memory_format=torch.channels_last)
    with accelerate(running.pipe, RECIPES[recipe]) as handle:
        picture, report = running(), handle.report()
    assert report.blocks_reused == plan.blocks_reused and report.calls_forecast == plan.calls_forecast
    assert apart(picture, wanted) < (5e-2 if report.served else 1e-3)


# Attention kernels

KERNELS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
NO_MASK = {"flash"}
"""Kernels that take no mask, and so no bias for the size of a group."""


@needs_cuda
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["text_to_image", "flux"])
def test_merging_in_each_attention_kernel(name: str, kernel: str) -> None:
    """Alone and with the bias, in halves: a kernel that takes no mask is reported, or another one is chosen by PyTorch.

    Numbers of tokens that are left are no multiples of 8.
    """
    running = pipeline(name, dtype=torch.bfloat16)
    backends = [KERNELS[kernel]]
    try:
        with sdpa_kernel(backends):
            running()
    except RuntimeError as error:
        pytest.skip(f"the unaccelerated pipeline has no use for it: {str(error).splitlines()[0]}")
    allowed = list(dict.fromkeys([*backends, SDPBackend.MATH]))
    for proportional in (False, True):
        merge = TokenMerge(threshold=-1.0, bucket=1, max_downsample=8, proportional=proportional)
        with sdpa_kernel(allowed, set_priority=True), accelerate(running.pipe, merge) as handle:
            picture, report = running(), handle.report()
        assert report.served > 0 and picture.isfinite().all(), report.lines()
        assert not any("not accelerated" in note for note in report.notes), report.notes
    if kernel in NO_MASK and name == "flux":  # the only kernel allowed: merging goes on without the bias
        with sdpa_kernel(backends), accelerate(running.pipe, merge) as handle:
            picture, report = running(), handle.report()
        assert report.served > 0 and picture.isfinite().all()
        assert any("proportional attention is off" in note for note in report.notes), report.notes


@pytest.mark.parametrize("size", [(12, 20), (7, 13), (16, 9)], ids=str)
@pytest.mark.parametrize("dtype", HALVES, **SHOWN)
def test_sizes_whose_tokens_are_no_multiple_of_8(size: tuple[int, int], dtype: torch.dtype) -> None:
    """With the bias, which the kernels want in rows of aligned memory."""
    case = tiny.diffusers_unet()
    case.model.to(DEVICE, dtype)
    even = tuple(side + side % 2 for side in size)
    latent, cond = moved([case.latent(size=even), case.cond()], DEVICE, dtype)
    merge = TokenMerge(threshold=0.3, bucket=1, max_downsample=2, proportional=True, absolute=True)
    with accelerate(case.model, merge) as handle, torch.no_grad():
        for t in (900.0, 500.0):
            output = case.call(case.model, latent, torch.full((2,), t, device=DEVICE), cond)
            assert output.isfinite().all() and output.dtype == dtype
        report = handle.end()
    assert report.served > 0 and report.merged_share > 0 and not report.declined, report.lines()
