"""The shipped small models in a real ComfyUI, which has no diffusers. Needs what test_comfyui.py needs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from hosts.comfy_prompts import image, node, patched
from hosts.comfyui import ROOT, ComfyUI, Prompt, places
from hosts.test_comfyui import host
from safetensors.torch import load_file

from skipstone.lab.demo_models.model import load_demo

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

TIMES = {"unet": 300.0, "flow": 0.3}
NAMES = {"unet": "icons (U-Net)", "flow": "icons (flow)"}
METHODS: dict[str, dict[str, Any]] = {
    "SkipstoneTokenMerge": {"threshold": 0.3, "checkpoints": "every"},
    "SkipstoneCallSkip": {"speedup": 2.0, "calls": 0},
    "SkipstoneAuto": {"level": "balanced", "speedup": 2.0},
}


def drawing(kind: str, text: str = "a red heart on a blue background", **sampling: Any) -> Prompt:
    """A picture of the demo model, decoded, encoded again, and looked at."""
    settings = {"seed": 1, "steps": 12, "cfg": 3.0, "sampler_name": "euler", "scheduler": "sgm_uniform", "denoise": 1.0}
    return {
        "demo": node("SkipstoneDemoModel", model=NAMES[kind], batch_size=1),
        "positive": node("CLIPTextEncode", clip=["demo", 1], text=text),
        "negative": node("CLIPTextEncode", clip=["demo", 1], text=""),
        "sampler": node("KSampler", model=["demo", 0], positive=["positive", 0], negative=["negative", 0],
                        latent_image=["demo", 3], **{**settings, **sampling}),
        "picture": node("VAEDecode", samples=["sampler", 0], vae=["demo", 2]),
        "again": node("VAEEncode", pixels=["picture", 0], vae=["demo", 2]),
        "digest": node("ProbeDigest", samples=["again", 0]),
        "leftovers": node("ProbeLeftovers", model=["demo", 0], samples=["sampler", 0]),
    }  # fmt: skip


@pytest.mark.parametrize("kind", TIMES)
def test_the_network_is_the_one_of_diffusers(host: ComfyUI, kind: str) -> None:
    seen = node("ProbeForward", model=["demo", 0], positive=["positive", 0], at=TIMES[kind])
    result = host.run({**drawing(kind), "forward": seen})
    assert result.status == "success", result.detail
    found = load_file(result.outputs["forward"])
    pipe, text = load_demo(kind), "heart" if kind == "unet" else "a red heart on a blue background"
    with torch.no_grad():
        expected = pipe.predict(found["input"], torch.tensor(300.0), pipe.encode([text] * 2))
    assert (found["output"] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_on_it_as_on_a_real_model(host: ComfyUI, kind: str, method: str) -> None:
    dense = image(host.run(drawing(kind)))
    result = host.run(patched(drawing(kind), method, "merge", **METHODS[method]))
    assert image(result) != dense and "sampling runs" not in result.report()
    assert image(host.run(drawing(kind))) == dense


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
@pytest.mark.parametrize("kind", TIMES)
def test_what_a_line_missed_is_put_right(host: ComfyUI, kind: str, sampler: str) -> None:
    distances = {}
    for predictor in ("line", "auto"):
        settings = {"speedup": 1.5, "calls": 0, "predictor": predictor}
        prompt = patched(drawing(kind, steps=20, sampler_name=sampler), "SkipstoneCallSkip", "calls", **settings)
        prompt["plain"] = {**prompt["sampler"], "inputs": {**prompt["sampler"]["inputs"], "model": ["demo", 0]}}
        prompt["counts"] = node("ProbeCounts", samples=["sampler", 0], other=["plain", 0])
        result = host.run(prompt)
        assert result.status == "success", result.detail
        assert f"({'corrected ' * (predictor == 'auto')}line on eps)" in result.report("calls")
        distances[predictor] = float(result.outputs["counts"].split()[2])
    most = 1.1 if (kind, sampler) == ("unet", "dpmpp_2m") else 0.95  # one picture may lose where the mean gains
    assert 0 < distances["auto"] < most * distances["line"] < 0.05 and distances["auto"] != distances["line"]


def test_a_prompt_chooses_what_is_drawn(host: ComfyUI) -> None:
    assert image(host.run(drawing("unet", "a heart"))) != image(host.run(drawing("unet", "a boat")))
    assert image(host.run(drawing("flow", "a red heart"))) != image(host.run(drawing("flow", "a pink heart")))
    assert image(host.run(drawing("unet", "a zebra"))) == image(host.run(drawing("unet", "")))


def test_the_accelerated_picture_is_compared_with_the_original(host: ComfyUI) -> None:
    prompt = patched(drawing("unet"), "SkipstoneAuto", "auto", **METHODS["SkipstoneAuto"])
    prompt["plain"] = {**prompt["sampler"], "inputs": {**prompt["sampler"]["inputs"], "model": ["demo", 0]}}
    prompt["original"] = node("VAEDecode", samples=["plain", 0], vae=["demo", 2])
    prompt["compare"] = node("SkipstoneCompare", original=["original", 0], accelerated=["picture", 0])
    shown = host.run(prompt).outputs["compare"]
    found = re.fullmatch(r"PSNR (\d+\.\d) dB, SSIM ([01]\.\d+)", shown)
    assert found and float(found[1]) > 20 and float(found[2]) > 0.8, shown
    prompt["compare"]["inputs"]["accelerated"] = ["original", 0]
    assert host.run(prompt).outputs["compare"] == "identical"


def test_a_run_is_reported_in_text_after_it(host: ComfyUI) -> None:
    prompt = patched(drawing("unet"), "SkipstoneAuto", "auto", **METHODS["SkipstoneAuto"])
    prompt["report"] = node("SkipstoneReport", model=["auto", 0], after=["sampler", 0])
    result = host.run(prompt)
    lines = result.outputs["report"].splitlines()
    assert re.match(r"\d\.\d\dx faster in multiply-adds, \d+\.\d s", lines[0]), result.detail
    assert lines[1].startswith("ran ") and lines[1] in result.report("auto").replace(";", "")


def shipped(name: str) -> Prompt:
    """The prompt of a workflow."""
    return json.loads((ROOT / f"workflows/api/{name}.json").read_text())


FILES = {
    "ckpt_name", "unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name", "lora_name", "control_net_name",
}  # fmt: skip
"""Widgets with the names of models, which this server does not have."""
RUNNING = {"demo_skipstone", "demo_compare", "demo_image_to_image", "demo_joint_recipe"}


@pytest.mark.parametrize("name", sorted(RUNNING))
def test_the_workflows_of_the_demo_models_run_as_they_are(host: ComfyUI, name: str) -> None:
    prompt = shipped(name)
    result = host.run(prompt)
    assert result.status == "success", result.detail
    calls = 7 if name == "demo_joint_recipe" else 11  # 3x, and balanced
    assert f"ran {calls} of 20 calls" in result.report("2")
    if name == "demo_compare":  # without a cache, 0.3.64 forgets what a node shows that others follow
        result = host.run({node: given for node, given in prompt.items() if given["class_type"] != "PreviewImage"})
        found = re.fullmatch(r"PSNR (\d+\.\d) dB, SSIM (0\.\d+|1\.000), \d\.\d\dx faster", result.outputs["8"])
        assert found and float(found[1]) > 25, "its time ratio comes from Run Report"


@pytest.mark.parametrize("name", sorted({path.stem for path in (ROOT / "workflows").glob("*.json")} - RUNNING))
def test_the_other_workflows_lack_nothing_but_their_models(host: ComfyUI, name: str) -> None:
    """ComfyUI validates the whole prompt: a wrong input, type or option would be among the errors."""
    rejected = host.run(shipped(name))
    errors = [e for n in rejected.detail["node_errors"].values() for e in n["errors"]]
    others = [e for e in errors if e["type"] != "value_not_in_list" or e["extra_info"]["input_name"] not in FILES]
    assert {(e["type"], e["extra_info"]["input_name"]) for e in others} <= {("custom_validation_failed", "image")}, (
        others
    )
    assert errors
