"""Networks as users store and load them, in a real ComfyUI: few bits, wrapped layers, LoRA, little memory, torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
from hosts.comfy_prompts import image, merged, node
from hosts.comfyui import ComfyUI, Prompt, Result, places
from hosts.test_comfyui import host
from hosts.test_comfyui_families import STEPS, fewer, ran, skipped
from hosts.test_comfyui_families import picture as plain

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

KINDS = ("Flux 2", "Qwen-Image", "Wan 2.1 t2v", "Z-Image")
STORED = ("bf16", "fp16", "fp8", "wrapped", "lora", "bypass lora")
LOADED = ("low memory", "compiled")


def loaded(prompt: Prompt, kind: str, way: str) -> Prompt:
    """The prompt with the network stored or loaded in this way."""
    if way in STORED:
        return {**prompt, "model": node("ProbeStored", kind=kind, way=way)}
    real = {"real": node("ProbeModel", kind=kind)}
    how = {
        "low memory": node("ProbeLowVram", model=["real", 0]),
        "compiled": node("ProbeCompiled", model=["real", 0]),
    }
    return {**prompt, **real, "model": how[way]}


def drawn(result: Result) -> tuple[str, str]:
    """The latent's fingerprint, and what stands on the network's modules: ComfyUI leaves its own of a LoRA beside the weights."""
    assert result.status == "success" and result.outputs["digest"] != "not finite", result.detail
    return result.outputs["digest"], result.outputs["leftovers"]


@pytest.fixture(params=[(kind, way) for kind in KINDS for way in (*STORED, *LOADED)], ids=" ".join, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def dense(host: ComfyUI, case: tuple[str, str]) -> tuple[str, str]:
    """The picture without us."""
    return drawn(host.run(loaded(plain(case[0]), *case)))


def test_off_changes_no_bit(host: ComfyUI, case: tuple[str, str], dense: tuple[str, str]) -> None:
    kind, way = case
    for prompt in (skipped(kind, every=1), fewer(kind, calls=0, speedup=1.0), merged(plain(kind), threshold=1.0)):
        assert drawn(host.run(loaded(prompt, kind, way))) == dense


def test_calls_and_blocks_are_skipped_as_the_report_says_and_nothing_stays(
    host: ComfyUI, case: tuple[str, str], dense: tuple[str, str]
) -> None:
    kind, way = case
    result = host.run(loaded(skipped(kind), kind, way))
    run, of = ran(result)
    assert (run, drawn(result) == dense, drawn(result)[1]) == (of // 2, False, dense[1]), result.texts
    result = host.run(loaded(fewer(kind), kind, way))
    assert drawn(result) != dense and f"ran 2 of {STEPS} calls, forecast 2" in result.report("calls")
    assert drawn(host.run(loaded(plain(kind), kind, way))) == dense


def test_tokens_are_merged_or_the_report_says_why_not(
    host: ComfyUI, case: tuple[str, str], dense: tuple[str, str]
) -> None:
    kind, way = case
    result = host.run(loaded(merged(plain(kind), threshold=-1.0), kind, way))
    if result.report("merge").startswith("merged 75% of tokens in "):
        assert drawn(result) != dense
    else:
        assert drawn(result) == dense and "unaccelerated" in result.report("merge"), result.texts


def test_two_networks_in_one_run_have_states_of_their_own(host: ComfyUI) -> None:
    """As Wan 2.2's: one network draws the noisy half of the steps, another one goes on from its latent."""

    def halves(**methods: Any) -> Prompt:
        prompt = {**plain("Wan 2.1 t2v"), "low": node("ProbeStored", kind="Wan 2.1 t2v", way="lora")}
        first = {**prompt["sampler"]["inputs"], "add_noise": "enable", "start_at_step": 0, "noise_seed": 1}
        first |= {"end_at_step": 4, "return_with_leftover_noise": "enable", "steps": 8}
        first = {name: value for name, value in first.items() if name not in ("seed", "denoise")}
        second = {**first, "model": ["low", 0], "latent_image": ["high", 0], "add_noise": "disable"}
        second |= {"start_at_step": 4, "end_at_step": 10000, "return_with_leftover_noise": "disable"}
        both = {"high": node("KSamplerAdvanced", **first), "sampler": node("KSamplerAdvanced", **second)}
        made = {**prompt, **both}
        for name, sampler in (("calls", "high"), ("calls2", "sampler")) if methods else ():
            before = made[sampler]["inputs"]["model"]
            made[name] = node("SkipstoneCallSkip", model=before, **methods)
            made[sampler] = {**made[sampler], "inputs": {**made[sampler]["inputs"], "model": [name, 0]}}
        return made

    dense = image(host.run(halves()))
    result = host.run(halves(speedup=2.0, calls=2))
    assert image(result) != dense
    for name in ("calls", "calls2"):
        assert "ran 2 of 4 calls, forecast 2" in result.report(name), result.texts
    assert image(host.run(halves())) == dense
