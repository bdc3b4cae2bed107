"""Prompts of the probe nodes, and what their results say."""

from __future__ import annotations

import re
from typing import Any

from hosts.comfyui import Prompt, Result

SIZES = {"SD1.5": 128, "SDXL": 256, "PixArt": 320, "SD3": 128}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def text2img(kind: str = "SD1.5", size: int | None = None, batch: int = 1, tokens: int = 77, **sampling: Any) -> Prompt:
    """Model, two conds, an empty latent, a KSampler and looks at what came out."""
    latent = "EmptySD3LatentImage" if kind == "SD3" else "EmptyLatentImage"
    settings = {"seed": 1, "steps": 4, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "model": node("ProbeModel", kind=kind),
        "positive": node("ProbeConditioning", kind=kind, tokens=tokens, rng=1),
        "negative": node("ProbeConditioning", kind=kind, tokens=77, rng=2),
        "empty": node(latent, width=size or SIZES[kind],
                      height=size or SIZES[kind], batch_size=batch),
        "sampler": node("KSampler", model=["model", 0], positive=["positive", 0], negative=["negative", 0],
                        latent_image=["empty", 0], **{**settings, **sampling}),
        "digest": node("ProbeDigest", samples=["sampler", 0]),
        "leftovers": node("ProbeLeftovers", model=["model", 0], samples=["sampler", 0]),
    }  # fmt: skip


def patched(prompt: Prompt, class_type: str, name: str, **inputs: Any) -> Prompt:
    """A MODEL to MODEL node in front of the KSampler."""
    before = prompt["sampler"]["inputs"]["model"]
    sampler = {**prompt["sampler"], "inputs": {**prompt["sampler"]["inputs"], "model": [name, 0]}}
    return {**prompt, "sampler": sampler, name: node(class_type, model=before, **inputs)}


def merged(prompt: Prompt, threshold: float = 0.3, checkpoints: str = "config_3", **rare: Any) -> Prompt:
    return patched(prompt, "SkipstoneTokenMerge", "merge", threshold=threshold, checkpoints=checkpoints, **rare)


def image(result: Result) -> str:
    """The latent's fingerprint of a run that went well and left nothing on the model."""
    assert result.status == "success", result.detail
    assert result.outputs["leftovers"] == ""
    assert result.outputs["digest"] != "not finite"
    return result.outputs["digest"]


def share(result: Result) -> int:
    """Percent of tokens merged, from the report on the node."""
    found = re.match(r"merged (\d+)% of tokens in \d+ layers, saved -?\d+% of their attention;", result.report())
    assert found, result.texts
    return int(found[1])


def calls(result: Result) -> int:
    found = re.search(r"(\d+) calls?: ", result.report())
    assert found, result.texts
    return int(found[1])
