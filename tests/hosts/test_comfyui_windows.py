"""Context windows in a real ComfyUI: each keeps its own caches. Needs what test_comfyui.py needs."""

from __future__ import annotations

from typing import Any

import pytest
from hosts.comfy_prompts import image, node, patched, text2img
from hosts.comfyui import ComfyUI, Prompt, places
from hosts.test_comfyui import host
from hosts.test_comfyui_masks import counts, skipped

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

FRAMES = 6
WINDOW = {
    "context_length": 3, "context_overlap": 0, "context_schedule": "standard_static", "context_stride": 1,
    "closed_loop": False, "fuse_method": "flat", "dim": 0, "freenoise": False, "causal_window_fix": False,
    "cond_retain_index_list": "", "split_conds_to_windows": False, "latent_retain_index_list": "",
}  # fmt: skip


def windowed(prompt: Prompt, **changes: Any) -> Prompt:
    return patched(prompt, "ContextWindowsManual", "windows", **{**WINDOW, **changes})


def first_frames(prompt: Prompt) -> Prompt:
    """Looks at the first window's frames alone."""
    part = node("LatentFromBatch", samples=["sampler", 0], batch_index=0, length=WINDOW["context_length"])
    return {**prompt, "part": part, "digest": node("ProbeDigest", samples=["part", 0])}


@pytest.fixture
def served(host: ComfyUI) -> ComfyUI:
    """A host whose own windows run on this version of torch."""
    if host.run(windowed(text2img(batch=FRAMES))).status != "success":
        pytest.skip("this ComfyUI's context windows do not run on this version of torch")
    return host


def test_a_window_is_skipped_as_its_frames_are_alone(served: ComfyUI) -> None:
    alone = served.run(skipped(text2img(batch=3), "interval", every=2))
    together = served.run(skipped(first_frames(windowed(text2img(batch=FRAMES))), "interval", every=2))
    assert image(together) == image(alone)
    assert image(together) != image(served.run(first_frames(windowed(text2img(batch=FRAMES)))))
    ran, blocks, calls = counts(together)
    assert (ran, blocks, calls) == (2 * counts(alone)[0], 2 * counts(alone)[1], 4) and ran < blocks


@pytest.mark.parametrize("changes", [{"causal_window_fix": True}, {"context_overlap": 1}], ids=str)
def test_windows_of_other_lengths_and_overlaps_are_skipped_too(served: ComfyUI, changes: dict[str, Any]) -> None:
    result = served.run(skipped(windowed(text2img(batch=FRAMES), **changes), "interval", every=2))
    assert image(result) != image(served.run(windowed(text2img(batch=FRAMES), **changes)))
    ran, blocks, calls = counts(result)
    assert 2 * ran == blocks and calls == 4


def test_windows_that_move_are_declined_in_one_line(served: ComfyUI) -> None:
    moving = windowed(text2img(batch=FRAMES, steps=6), context_schedule="standard_uniform", context_overlap=1)
    result = served.run(skipped(moving, "interval", every=2))
    assert image(result) and counts(result)[2] == 6, "windows of one step are one call"
    assert result.report("mask").endswith("use the standard_static schedule;")
