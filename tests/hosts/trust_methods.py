"""A plain picture of the probe's models, and our methods on it: at work, idle, and off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hosts.comfy_prompts import node, patched, text2img
from hosts.comfyui import Prompt, Result

STEPS, CALLS = 4, 2
UNET = "U-Net"
Change = Callable[[Prompt], Prompt]


@dataclass(frozen=True)
class Case:
    """kind: of the model. needs: the node without which the case is skipped. change: of a prompt."""

    kind: str
    needs: str
    change: Change


def picture(kind: str = UNET, batch: int = 1, **sampling: Any) -> Prompt:
    """Dense."""
    prompt = text2img("SD3" if kind == "SD3" else UNET, size=128, steps=STEPS, **sampling)
    conds = {name: node("ProbeConditioning", kind=kind, tokens=77, rng=i)
             for i, name in enumerate(("positive", "negative"))}  # fmt: skip
    empty = prompt["empty"] if kind == "SD3" else node("ProbeLatent", kind=kind)
    many = {"one": empty, "empty": node("RepeatLatentBatch", samples=["one", 0], amount=batch)}
    more = {
        "other": node("ProbeConditioning", kind=kind, tokens=77, rng=3),
        "counts": node("ProbeCounts", samples=["sampler", 0], other=["sampler", 0]),
    }
    return {**prompt, "model": node("ProbeModel", kind=kind), **conds, **many, **more}


Settings = dict[str, dict[str, Any]]
"""Node -> its widgets."""

NOTHING = {"start_percent": 0.501, "end_percent": 0.502}
"""A window between two steps: the engine follows the run, and leaves every forward as it is."""
ON: dict[str, Settings] = {
    "calls": {"SkipstoneCallSkip": {"speedup": 2.0, "calls": CALLS}},
    "parts": {
        "SkipstoneTokenMerge": {"threshold": 0.2, "checkpoints": "every"},
        "SkipstoneBlockMask": {"rule": "interval", "every": 2},
    },
    "dato": {"SkipstoneDaTo": {"preset": "custom", "custom_depths": "", "ratio": 0.5}},
}
IDLE: Settings = {
    "SkipstoneCallSkip": {"speedup": 2.0, "calls": 0, "keys": ", ".join(map(str, range(STEPS)))},
    **{name: {**widgets, **NOTHING} for name, widgets in ON["parts"].items()},
}
OFF: Settings = {
    "SkipstoneCallSkip": {"speedup": 1.0, "calls": 0},
    "SkipstoneTokenMerge": {"threshold": 1.0},
    "SkipstoneBlockMask": {"every": 1},
}


def ours(prompt: Prompt, settings: Settings) -> Prompt:
    """Our nodes in front of the sampler, each under its own name."""
    for class_type, widgets in settings.items():
        filled = {"threshold": 0.7, "checkpoints": "every"} if class_type == "SkipstoneTokenMerge" else {}
        prompt = patched(prompt, class_type, class_type, **{**filled, **widgets})
    return prompt


def said(result: Result, settings: Settings) -> str:
    """What our last node shows."""
    return result.report(list(settings)[-1])


def drawn(result: Result) -> tuple[str, str]:
    """The latent's fingerprint, and what stands on the network's modules: ComfyUI leaves its own of a LoRA beside the weights."""
    assert result.status == "success", result.detail
    assert result.outputs["digest"] != "not finite"
    return result.outputs["digest"], result.outputs["leftovers"]


def rows(result: Result) -> list[int]:
    """Rows of the network and of the ControlNet."""
    return [int(count) for count in result.outputs["counts"].split()[:2]]
