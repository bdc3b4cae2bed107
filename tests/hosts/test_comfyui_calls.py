"""Call Skip in a real ComfyUI. Needs what test_comfyui.py needs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hosts.comfy_prompts import image, merged, node, patched, text2img
from hosts.comfyui import ROOT, ComfyUI, Prompt, Result, places
from hosts.test_comfyui import host
from hosts.test_comfyui_masks import picture, skipped, with_control
from hosts.test_comfyui_windows import FRAMES, windowed

from skipstone.core.plan.call_plan import even_keys

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

STEPS, CALLS = 12, 6
KINDS = (
    "SD1.5",
    "SDXL",
    "PixArt",
    "SD3",
    "Flux",
    "Chroma",
    "SVD",
    "Wan",
    "LTXV",
    "HunyuanVideo",
    "Cosmos",
    "Cosmos 2",
    "Mochi",
)


def dense(kind: str = "SD3", **sampling: Any) -> Prompt:
    """A prompt whose forwards are counted."""
    prompt = picture(kind, **{"steps": STEPS, **sampling})
    return {**prompt, "counts": node("ProbeCounts", samples=["sampler", 0])}


def fewer(prompt: Prompt, calls: int = CALLS, **rare: Any) -> Prompt:
    """With a Call Skip in front of the KSampler."""
    return patched(prompt, "SkipstoneCallSkip", "calls", **{"speedup": 2.0, "calls": calls, **rare})


def compared(prompt: Prompt) -> Prompt:
    """Beside the same sampler without Call Skip."""
    plain = {**prompt["sampler"]["inputs"], "model": prompt["calls"]["inputs"]["model"]}
    distance = node("ProbeDistance", samples=["sampler", 0], other=["plain", 0])
    return {**prompt, "plain": node("KSampler", **plain), "distance": distance}


def forwards(result: Result) -> tuple[int, int]:
    """Of the network and of the ControlNet."""
    network, control = re.findall(r"\d+", result.outputs["counts"])
    return int(network), int(control)


def distance(host: ComfyUI, prompt: Prompt) -> float:
    result = host.run(compared(prompt))
    assert image(result)
    return float(result.outputs["distance"])


def reported(result: Result) -> tuple[int, int]:
    """Calls that ran, and all, from the last run's report."""
    found = re.findall(r"ran (\d+) of (\d+) calls, forecast", result.report("calls"))
    assert found, result.texts
    return int(found[-1][0]), int(found[-1][1])


# what runs


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_calls_reach_the_network_and_the_picture_is_near(host: ComfyUI, kind: str) -> None:
    first = host.run(dense(kind))
    result = host.run(fewer(dense(kind)))
    assert image(result) != image(first)
    per_call = forwards(first)[0] // STEPS
    assert forwards(first)[0] == per_call * STEPS and forwards(result)[0] == per_call * CALLS
    assert result.report("calls") == "ran 6 of 12 calls, forecast 6 (line on eps);"
    assert 0 < distance(host, fewer(dense(kind))) < 0.2


def test_neutral_settings_are_bit_identical_and_full_calls_too(host: ComfyUI) -> None:
    plain = image(host.run(dense()))
    assert image(host.run(fewer(dense(), calls=0, speedup=1.0))) == plain
    everything = host.run(fewer(dense(), calls=0, keys=", ".join(map(str, range(STEPS)))))
    assert image(everything) == plain and forwards(everything)[0] == STEPS
    assert image(host.run(fewer(dense()))) == image(host.run(fewer(dense()))) != plain
    assert image(host.run(dense())) == plain


@pytest.mark.parametrize(
    "options", [{"batch": 2}, {"cfg": 1.0}, {"tokens": 154}, {"scheduler": "karras"}, {"denoise": 0.6}], ids=str
)
def test_shapes_conds_and_schedules(host: ComfyUI, options: dict[str, Any]) -> None:
    """With 154 tokens SD3's conds come in two forwards."""
    result = host.run(fewer(dense(**options)))
    assert image(result) != image(host.run(dense(**options)))
    assert forwards(result)[0] == CALLS * (2 if "tokens" in options else 1) and reported(result) == (CALLS, STEPS)


def test_few_steps_are_declined_in_one_line(host: ComfyUI) -> None:
    result = host.run(fewer(dense(steps=8), calls=0))
    assert image(result) == image(host.run(dense(steps=8))) and forwards(result)[0] == 8
    assert "call skipping unaccelerated: 8 steps are too few to forecast any" in result.report("calls")


def test_a_wrong_setting_is_told_and_the_image_comes_dense(host: ComfyUI) -> None:
    result = host.run(fewer(dense(), keys="some"))
    assert image(result) == image(host.run(dense())) and "cannot be read" in result.report("calls")


# samplers


SEVERAL = {"heun": 2, "dpm_2": 2, "dpmpp_sde": 2}
"""Evaluations of a step; the last one needs no second."""


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc", "euler_ancestral", "dpmpp_2m_sde", "lcm", *SEVERAL])
def test_samplers_run_the_steps_of_the_plan(host: ComfyUI, name: str) -> None:
    first, result = host.run(dense(sampler_name=name)), host.run(fewer(dense(sampler_name=name)))
    assert image(result) != image(first) and image(result) == image(host.run(fewer(dense(sampler_name=name))))
    each, extra = SEVERAL.get(name, 1), name == "heun"  # heun's second evaluations have values of their own
    assert forwards(first)[0] == each * STEPS - (each > 1)
    assert forwards(result)[0] == each * (CALLS + extra) - (each > 1)


@pytest.mark.parametrize("name", ["dpm_adaptive", "dpm_fast"])
def test_samplers_with_steps_of_their_own_are_declined_in_one_line(host: ComfyUI, name: str) -> None:
    result = host.run(fewer(dense(sampler_name=name)))
    assert image(result) == image(host.run(dense(sampler_name=name)))
    assert result.report("calls") == f"{name} chooses its own steps; sampling runs unaccelerated"


def test_every_sampler_is_accelerated_or_declined(host: ComfyUI) -> None:
    info = json.loads(host.get("/object_info/KSampler"))["KSampler"]["input"]["required"]["sampler_name"]
    names = info[0] if isinstance(info[0], list) else info[1]["options"]
    for name in names:
        result = host.run(fewer(dense(sampler_name=name, cfg=1.0)))
        assert image(result), name
        if "unaccelerated" not in result.report("calls"):
            ran, calls = reported(result)
            assert ran < 0.7 * calls, (name, result.report("calls"))


# what is skipped with it


def test_the_controlnets_own_forward_is_skipped(host: ComfyUI) -> None:
    first, result = host.run(with_control(dense("SD1.5"))), host.run(with_control(fewer(dense("SD1.5"))))
    assert forwards(first) == (STEPS, STEPS) and forwards(result) == (CALLS, CALLS)
    assert image(result) not in (image(first), image(host.run(fewer(dense("SD1.5")))))
    assert distance(host, with_control(fewer(dense("SD1.5")))) < 0.2


def test_a_controlnet_that_ends_in_mid_run_has_full_calls_then(host: ComfyUI) -> None:
    prompt = with_control(fewer(dense("SD1.5"), calls=0, keys="0, 1, 11"))
    prompt["control"]["inputs"] |= {"end_percent": 0.5}
    assert forwards(host.run(prompt))[0] == 5, "two calls without it are needed"


def areas(prompt: Prompt, kind: str) -> Prompt:
    area = node("ConditioningSetArea", conditioning=["other", 0], width=64, height=128, x=64, y=0, strength=1.0)
    return _beside(prompt, area, kind)


def ranged(prompt: Prompt, kind: str) -> Prompt:
    late = node("ConditioningSetTimestepRange", conditioning=["other", 0], start=0.5, end=1.0)
    return _beside(prompt, late, kind)


def _beside(prompt: Prompt, changed: dict[str, Any], kind: str) -> Prompt:
    both = node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["changed", 0])
    other = node("ProbeConditioning", kind=kind, tokens=77, rng=3)
    prompt["sampler"]["inputs"]["positive"] = ["both", 0]
    return {**prompt, "other": other, "changed": changed, "both": both}


def test_area_conds_are_forecast(host: ComfyUI) -> None:
    result = host.run(areas(fewer(dense("SD1.5")), "SD1.5"))
    assert reported(result) == (CALLS, STEPS) and distance(host, areas(fewer(dense("SD1.5")), "SD1.5")) < 0.2


def test_a_cond_that_starts_in_mid_run_has_full_calls_then(host: ComfyUI) -> None:
    result = host.run(ranged(fewer(dense("SD1.5"), calls=0, keys="0, 1, 11"), "SD1.5"))
    assert image(result) and reported(result) == (5, STEPS)


def test_perturbed_attention_is_forecast_by_itself(host: ComfyUI) -> None:
    def perturbed(prompt: Prompt) -> Prompt:
        return patched(prompt, "PerturbedAttentionGuidance", "pag", scale=3.0)

    assert forwards(host.run(fewer(perturbed(dense("SD1.5")))))[0] == 2 * CALLS
    result = host.run(perturbed(fewer(dense("SD1.5"))))
    assert forwards(result)[0] == 2 * CALLS and reported(result) == (CALLS, STEPS)
    assert distance(host, fewer(perturbed(dense("SD1.5")))) < 0.2


def test_context_windows_have_values_of_their_own(host: ComfyUI) -> None:
    plain = windowed(dense("SD1.5", batch=FRAMES))
    if host.run(plain).status != "success":
        pytest.skip("this ComfyUI's context windows do not run on this version of torch")
    result = host.run(fewer(plain))
    assert image(result) and forwards(result)[0] == 2 * CALLS and reported(result) == (CALLS, STEPS)
    assert distance(host, fewer(plain)) < 0.2


# other nodes, several runs


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize("other", ["EasyCache", "LazyCache"])
def test_of_two_that_skip_calls_one_is_used(host: ComfyUI, other: str, first: bool) -> None:
    own = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    prompt = patched(dense(), other, "other", **own)
    both = fewer(prompt) if first else patched(fewer(dense()), other, "other", **own)
    result = host.run(both)
    assert image(result) == image(host.run(prompt))
    line = f"{other} also skips calls of this model: keep one of the two nodes; sampling runs unaccelerated"
    assert result.report("calls") == line


def test_with_merging_and_a_mask_in_one_report(host: ComfyUI) -> None:
    prompt = fewer(skipped(merged(dense("SD1.5")), "interval", every=2))
    result = host.run(prompt)
    assert image(result) and forwards(result)[0] == CALLS
    assert result.report("calls") == result.report("merge") == result.report("mask")
    assert re.match(
        r"ran 6 of 12 calls, .* merged \d+% .* 6 calls: .* ran \d+ of \d+ blocks in 6 calls", result.report("calls")
    )
    assert image(result) != image(host.run(fewer(dense("SD1.5"))))


def test_two_samplers_have_runs_of_their_own(host: ComfyUI) -> None:
    prompt = fewer(dense())
    again = {**prompt["sampler"]["inputs"], "latent_image": ["sampler", 0], "denoise": 0.5, "steps": 10}
    prompt |= {"second": node("KSampler", **again), "counts": node("ProbeCounts", samples=["second", 0])}
    result = host.run(prompt)
    assert image(result) and forwards(result)[0] == 2 * CALLS
    assert re.fullmatch(r"run 1: ran 6 of 12 calls, .*; run 2: ran 6 of 10 calls, .*;", result.report("calls"))
    assert image(result) == image(host.run(fewer(dense())))


def test_cancel_leaves_nothing(host: ComfyUI) -> None:
    plain, first = image(host.run(dense("SD1.5"))), image(host.run(fewer(dense("SD1.5"))))
    cancelled = host.run(patched(fewer(dense("SD1.5")), "ProbeCancel", "cancel", call=12))
    assert cancelled.status == "error" and cancelled.detail[0] == "execution_interrupted"
    assert image(host.run(dense("SD1.5"))) == plain and image(host.run(fewer(dense("SD1.5")))) == first


def test_a_recipe_is_saved_and_loaded(host: ComfyUI) -> None:
    save = node("SkipstoneRecipeSaver", model=["calls", 0], filename_prefix="half")
    saved = host.run({**fewer(dense()), "save": save})
    name, content = saved.report("save").split(": ")
    assert content == "call skip"
    assert image(host.run(patched(dense(), "SkipstoneRecipeLoader", "load", file=name))) == image(saved)


# what ships


def test_the_shipped_workflows_lack_nothing_but_their_models(host: ComfyUI) -> None:
    prompt = json.loads((ROOT / "workflows/api/sd15_call_skip.json").read_text())
    rejected = host.run(prompt)
    errors = [e for n in rejected.detail["node_errors"].values() for e in n["errors"]]
    assert [(e["type"], e["extra_info"]["input_name"]) for e in errors] == [("value_not_in_list", "ckpt_name")]
    own = {k: v for k, v in prompt["2"]["inputs"].items() if k != "model"}
    assert reported(host.run(patched(dense(steps=20), "SkipstoneCallSkip", "calls", **own))) == (10, 20)


def test_help_page_and_texts_are_served(host: ComfyUI) -> None:
    page = host.get("/extensions/skipstone/docs/SkipstoneCallSkip.md")
    assert page == (ROOT / "web/docs/SkipstoneCallSkip.md").read_bytes()
    info = json.loads(host.get("/object_info/SkipstoneCallSkip"))["SkipstoneCallSkip"]
    assert (info["display_name"], info["category"], info["output"]) == ("Call Skip", "Skipstone", ["MODEL"])
    assert info["input"]["optional"]["keys"][1]["default"] == "" and info["input"]["optional"]["keys"][1]["advanced"]
    assert even_keys(STEPS, CALLS)[:2] == (0, 1)
