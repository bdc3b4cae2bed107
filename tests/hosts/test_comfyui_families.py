"""Every family of image and video models in a real ComfyUI: what is served, what is declined, and nothing left behind."""

from __future__ import annotations

import re
from typing import Any

import pytest
import served
from hosts.comfy_prompts import image, merged, node, patched, text2img
from hosts.comfyui import OLD, ComfyUI, Prompt, Result, places
from hosts.test_comfyui import host

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

STEPS = 4
STACKED = {
    "AuraFlow": 8, "HunyuanDiT": 8, "Flux 2": 8, "Lumina 2": 4, "Z-Image": 4, "Qwen-Image": 4, "HiDream": 8, "OmniGen 2": 4,
    "Boogu": 8, "Ideogram 4": 4, "Krea 2": 4, "Mage Flow": 4, "JoyImage": 4, "Kandinsky 5": 4, "LongCat": 8, "Ernie": 4,
    "CogVideoX": 4, "Anima": 4, "HunyuanImage 2.1": 8, "HunyuanVideo 1.5": 8, "Wan 2.1 i2v": 4, "Wan 2.2 t2v 5B": 4,
    "Wan VACE": 4, "Wan camera": 4, "PixelDiT": 4, "Lens": 4, "Wan 2.1 t2v": 4, "LTX Video": 4, "HunyuanVideo t2v": 8,
    "Cosmos 1": 4, "Cosmos Predict 2": 4, "Mochi 1": 4,
}  # fmt: skip
"""Kind -> blocks of its stacks."""
LONG_SKIPS = ("HunyuanDiT",)
"""Kinds whose first call shows that its sums cannot be used, so that the second one runs in full, too."""


KERNELS_OUT_OF_REACH = ("HunyuanDiT", "Ernie")
"""Kinds whose attention is called without transformer_options, in which overrides stand."""


def picture(kind: str) -> Prompt:
    """Dense."""
    prompt = text2img(kind, size=128, steps=STEPS)
    conds = {name: node("ProbeConditioning", kind=kind, tokens=256 if kind == "Mochi 1" else 77, rng=i)
             for i, name in enumerate(("positive", "negative"))}  # fmt: skip
    return {**prompt, **conds, "empty": node("ProbeLatent", kind=kind)}


def skipped(kind: str, **rule: Any) -> Prompt:
    """Every second call runs no block."""
    rules = {"rule": node("SkipstoneMaskRule", **{"rule": "interval", "every": 2, **rule})}
    return {**rules, **patched(picture(kind), "SkipstoneBlockMask", "mask", mask=["rule", 0])}


def pruned(kind: str) -> Prompt:
    """Half of the tokens, and no schedule."""
    return patched(picture(kind), "SkipstoneDaTo", "dato", preset="custom", custom_depths="", ratio=0.5)


def fewer(kind: str, **rare: Any) -> Prompt:
    """Half of the calls reach the network."""
    return patched(picture(kind), "SkipstoneCallSkip", "calls", **{"speedup": 2.0, "calls": 2, **rare})


@pytest.fixture(params=STACKED, scope="module")
def kind(request: pytest.FixtureRequest, host: ComfyUI) -> str:
    first = host.run(picture(request.param))
    if first.status == "rejected" or (host.name in OLD and first.status == "error"):
        pytest.skip("not in this version of ComfyUI")
    return request.param


@pytest.fixture(scope="module")
def dense(host: ComfyUI, kind: str) -> str:
    """The picture without us."""
    return image(host.run(picture(kind)))


def ran(result: Result) -> tuple[int, int]:
    """Blocks that ran, and all."""
    found = re.findall(r"ran (\d+) of (\d+) blocks in (\d+) calls?,", result.report("mask"))
    assert found, result.texts
    return int(found[-1][0]), int(found[-1][1])


def test_neutral_settings_change_no_bit(host: ComfyUI, kind: str, dense: str) -> None:
    assert image(host.run(skipped(kind, every=1))) == dense
    assert image(host.run(fewer(kind, calls=0, speedup=1.0))) == dense


def test_blocks_are_skipped_and_nothing_stays(host: ComfyUI, kind: str, dense: str) -> None:
    result = host.run(skipped(kind))
    assert image(result) != dense
    full = STEPS // 2 + (kind in LONG_SKIPS)
    assert ran(result) == (STACKED[kind] * full, STACKED[kind] * STEPS), result.texts
    assert "declined" not in result.report("mask") and "unaccelerated" not in result.report("mask")
    assert image(host.run(picture(kind))) == dense
    served.check(host.name, kind, "blocks", served.SERVED)


def test_calls_are_skipped(host: ComfyUI, kind: str, dense: str) -> None:
    result = host.run(fewer(kind))
    assert image(result) != dense
    assert f"ran 2 of {STEPS} calls, forecast 2" in result.report("calls")
    served.check(host.name, kind, "calls", served.SERVED)


def test_tokens_are_merged_and_pruned_or_declined_with_the_reason(host: ComfyUI, kind: str, dense: str) -> None:
    assert image(host.run(merged(picture(kind), threshold=1.0))) == dense
    for prompt, name, done in (
        (merged(picture(kind), threshold=-1.0), "merge", "merged 75%"),
        (pruned(kind), "dato", "pruned 50%"),
    ):
        result = host.run(prompt)
        assert (image(result) == dense) == (kind in KERNELS_OUT_OF_REACH)
        if kind in KERNELS_OUT_OF_REACH:
            assert result.report(name).startswith("nothing was merged, pruned or skipped in 4 calls")
            reason = "its attention is not called with ComfyUI's transformer_options"
            assert result.report(name).endswith(f"{reason};")
            served.check(host.name, kind, "prune" if name == "dato" else name, reason)
        else:
            assert result.report(name).startswith(f"{done} of tokens in "), result.texts
            assert "unaccelerated" not in result.report(name) and "no dynamics" not in result.report(name)
            served.check(host.name, kind, "prune" if name == "dato" else name, served.SERVED)
    assert image(host.run(picture(kind))) == dense
