"""Call Skip in a real ComfyUI. Needs what test_comfyui.py needs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hosts.comfy_prompts import image, merged, node, patched
from hosts.comfyui import ROOT, ComfyUI, Prompt, Result, places
from hosts.test_comfyui import host
from hosts.test_comfyui_masks import picture, skipped, with_control
from hosts.test_comfyui_windows import FRAMES, windowed

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

STEPS, CALLS = 12, 6
NEAR = 0.35
"""Relative distance to the picture of all calls that forecasts of a random network keep; another noise is at 1.4."""
KINDS = ("SD1.5", "SDXL", "SD3", "Flux", "Wan", "LTXV", "HunyuanVideo", "Cosmos", "Cosmos 2")


def fewer(kind: str = "SD3", calls: int = CALLS, sampling: dict[str, Any] | None = None, **rare: Any) -> Prompt:
    """A Call Skip in front of the KSampler."""
    prompt = picture(kind, **{"steps": STEPS, **(sampling or {})})
    return patched(prompt, "SkipstoneCallSkip", "calls", **{"speedup": 2.0, "calls": calls, **rare})


def beside(prompt: Prompt) -> Prompt:
    """The same sampler without Call Skip beside it; the rows of both are counted, and latents compared."""
    found = prompt["sampler"]["inputs"]["model"]
    bare = {
        name: {**one, "inputs": dict(one["inputs"])} for name, one in prompt.items() if one["class_type"] != "KSampler"
    }
    plain = {**prompt["sampler"]["inputs"], "model": _without(bare, found)}
    counts = node("ProbeCounts", samples=["sampler", 0], other=["plain", 0])
    return {**prompt, **bare, "plain": node("KSampler", **plain), "counts": counts}


def _without(nodes: Prompt, model: Any) -> Any:
    """The model before Call Skip, with copies of the nodes behind it."""
    name = model[0]
    if name == "calls":
        return nodes[name]["inputs"]["model"]
    if "model" not in nodes[name]["inputs"]:
        return model
    nodes[f"{name} without"] = {
        **nodes[name],
        "inputs": {**nodes[name]["inputs"], "model": _without(nodes, nodes[name]["inputs"]["model"])},
    }
    return [f"{name} without", 0]


def counted(result: Result) -> tuple[int, int, float]:
    """Rows of the network and of the ControlNet in both runs, and the distance of the two latents."""
    assert image(result)
    network, control, distance = result.outputs["counts"].split()
    return int(network), int(control), float(distance)


def reported(result: Result) -> tuple[int, int]:
    """Calls that ran, and all, from the last run's report."""
    found = re.findall(r"ran (\d+) of (\d+) calls, forecast", result.report("calls"))
    assert found, result.texts
    return int(found[-1][0]), int(found[-1][1])


# what runs


@pytest.mark.parametrize("kind", KINDS)
def test_half_of_the_calls_reach_the_network_and_the_picture_is_near(host: ComfyUI, kind: str) -> None:
    result = host.run(beside(fewer(kind)))
    network, _, distance = counted(result)
    assert network == 2 * (STEPS + CALLS)
    assert result.report("calls") == "ran 6 of 12 calls, forecast 6 (corrected line on eps);"
    assert 0 < distance < NEAR


def test_neutral_settings_are_bit_identical_and_full_calls_too(host: ComfyUI) -> None:
    assert counted(host.run(beside(fewer(calls=0, speedup=1.0)))) == (4 * STEPS, 0, 0)
    assert counted(host.run(beside(fewer(calls=0, keys=", ".join(map(str, range(STEPS))))))) == (4 * STEPS, 0, 0)
    assert image(host.run(fewer())) == image(host.run(fewer()))


@pytest.mark.parametrize(
    "sampling", [{"batch": 2}, {"cfg": 1.0}, {"tokens": 154}, {"scheduler": "karras"}, {"denoise": 0.6}], ids=str
)
def test_shapes_conds_and_schedules(host: ComfyUI, sampling: dict[str, Any]) -> None:
    result = host.run(beside(fewer(sampling=sampling)))
    network, _, distance = counted(result)
    rows = 2 * sampling.get("batch", 1) if "cfg" not in sampling else 1
    assert network == (STEPS + CALLS) * rows and reported(result) == (CALLS, STEPS)
    assert 0 < distance < NEAR


def test_few_steps_are_declined_in_one_line(host: ComfyUI) -> None:
    result = host.run(beside(fewer(calls=0, sampling={"steps": 8})))
    assert counted(result) == (4 * 8, 0, 0)
    assert "call skipping unaccelerated: 8 steps are too few to forecast any" in result.report("calls")


def test_a_wrong_setting_is_told_and_the_image_comes_dense(host: ComfyUI) -> None:
    result = host.run(beside(fewer(keys="some")))
    assert counted(result) == (4 * STEPS, 0, 0) and "cannot be read" in result.report("calls")


# samplers


SEVERAL = {"heun": 2, "dpm_2": 2, "dpmpp_sde": 2}
"""Evaluations of a step; the last one needs no second."""


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc", "euler_ancestral", "dpmpp_2m_sde", *SEVERAL])
def test_samplers_run_the_steps_of_the_plan(host: ComfyUI, name: str) -> None:
    network, _, distance = counted(host.run(beside(fewer(sampling={"sampler_name": name}))))
    each, extra = SEVERAL.get(name, 1), name == "heun"  # heun's second evaluations have values of their own
    assert network == 2 * (each * (STEPS + CALLS) + extra - 2 * (each > 1)) and distance > 0


@pytest.mark.parametrize("name", ["dpm_adaptive", "dpm_fast", "lcm"])
def test_samplers_that_cannot_be_forecast_for_are_declined_in_one_line(host: ComfyUI, name: str) -> None:
    result = host.run(beside(fewer(sampling={"sampler_name": name})))
    assert counted(result)[2] == 0
    assert result.report("calls").startswith(f"{name} ") and result.report("calls").endswith(
        "; sampling runs unaccelerated"
    )


def test_every_sampler_is_accelerated_or_declined(host: ComfyUI) -> None:
    info = json.loads(host.get("/object_info/KSampler"))["KSampler"]["input"]["required"]["sampler_name"]
    names = info[0] if isinstance(info[0], list) else info[1]["options"]
    for name in names:
        result = host.run(fewer(sampling={"sampler_name": name, "cfg": 1.0}))
        assert image(result), name
        if "sampling runs unaccelerated" not in result.report("calls"):
            ran, calls = reported(result)
            assert ran < 0.7 * calls, (name, result.report("calls"))


# what is skipped with it


def test_the_controlnets_own_forward_is_skipped(host: ComfyUI) -> None:
    network, control, distance = counted(host.run(beside(with_control(fewer("SD1.5")))))
    assert network == control == 2 * (STEPS + CALLS) and 0 < distance < NEAR


def test_a_controlnet_that_ends_in_mid_run_has_full_calls_then(host: ComfyUI) -> None:
    prompt = with_control(fewer("SD1.5", calls=0, keys="0, 1, 11"))
    prompt["control"]["inputs"] |= {"end_percent": 0.5}
    result = host.run(prompt)
    assert image(result) and reported(result) == (5, STEPS), "two calls without it are needed"


def areas(prompt: Prompt) -> Prompt:
    return _with(prompt, "ConditioningSetArea", width=64, height=128, x=64, y=0, strength=1.0)


def ranged(prompt: Prompt) -> Prompt:
    return _with(prompt, "ConditioningSetTimestepRange", start=0.5, end=1.0)


def _with(prompt: Prompt, change: str, **options: Any) -> Prompt:
    """A second cond beside the positive one."""
    kind = prompt["positive"]["inputs"]["kind"]
    both = node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["changed", 0])
    other = node("ProbeConditioning", kind=kind, tokens=77, rng=3)
    prompt["sampler"]["inputs"]["positive"] = ["both", 0]
    return {**prompt, "other": other, "changed": node(change, conditioning=["other", 0], **options), "both": both}


def test_area_conds_are_forecast(host: ComfyUI) -> None:
    result = host.run(beside(areas(fewer())))
    assert reported(result) == (CALLS, STEPS) and 0 < counted(result)[2] < NEAR


def test_a_cond_that_starts_in_mid_run_has_full_calls_then(host: ComfyUI) -> None:
    result = host.run(ranged(fewer(calls=0, keys="0, 1, 11")))
    assert image(result) and reported(result) == (5, STEPS)


def test_perturbed_attention_is_forecast_by_itself(host: ComfyUI) -> None:
    result = host.run(beside(patched(fewer("SD1.5"), "PerturbedAttentionGuidance", "pag", scale=3.0)))
    network, _, distance = counted(result)
    assert network == 3 * (STEPS + CALLS) and reported(result) == (CALLS, STEPS) and 0 < distance < NEAR


def test_context_windows_have_values_of_their_own(host: ComfyUI) -> None:
    result = host.run(beside(windowed(fewer(sampling={"batch": FRAMES}))))
    if result.status != "success":
        pytest.skip("this ComfyUI's context windows do not run on this version of torch")
    network, _, distance = counted(result)
    assert network == 2 * FRAMES * (STEPS + CALLS) and reported(result) == (CALLS, STEPS) and 0 < distance < NEAR


# other nodes, several runs


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize("other", ["EasyCache", "LazyCache"])
def test_of_two_that_skip_calls_one_is_used(host: ComfyUI, other: str, first: bool) -> None:
    own = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    alone = patched(picture("SD3", steps=STEPS), other, "other", **own)
    both = patched(alone, "SkipstoneCallSkip", "calls", speedup=2.0, calls=0)
    result = host.run(both if first else patched(fewer(), other, "other", **own))
    assert image(result) == image(host.run(alone))
    line = f"{other} also skips calls of this model: keep one of the two nodes; sampling runs unaccelerated"
    assert result.report("calls") == line


def test_with_merging_and_a_mask_in_one_report(host: ComfyUI) -> None:
    result = host.run(skipped(merged(fewer("SD1.5")), "interval", every=2))
    assert image(result) != image(host.run(fewer("SD1.5")))
    report = result.report("calls")
    assert report == result.report("merge") == result.report("mask")
    assert re.match(r"ran 6 of 12 calls, .* merged \d+% .* 6 calls: .* ran \d+ of \d+ blocks in 6 calls", report)


def test_two_samplers_have_runs_of_their_own(host: ComfyUI) -> None:
    prompt = fewer()
    again = {**prompt["sampler"]["inputs"], "latent_image": ["sampler", 0], "denoise": 0.5, "steps": 10}
    result = host.run(
        {**prompt, "second": node("KSampler", **again), "look": node("ProbeDigest", samples=["second", 0])}
    )
    assert re.fullmatch(r"run 1: ran 6 of 12 calls, .*; run 2: ran 6 of 10 calls, .*;", result.report("calls"))
    assert image(result) == image(host.run(fewer()))


def test_cancel_leaves_nothing(host: ComfyUI) -> None:
    first = image(host.run(fewer("SD1.5")))
    cancelled = host.run(patched(fewer("SD1.5"), "ProbeCancel", "cancel", call=12))
    assert cancelled.status == "error" and cancelled.detail[0] == "execution_interrupted"
    assert image(host.run(fewer("SD1.5"))) == first


def test_a_recipe_is_saved_and_loaded(host: ComfyUI) -> None:
    save = node("SkipstoneRecipeSaver", model=["calls", 0], filename_prefix="half")
    saved = host.run({**fewer(), "save": save})
    name, content = saved.report("save").split(": ")
    assert content == "call skip"
    loaded = patched(picture("SD3", steps=STEPS), "SkipstoneRecipeLoader", "load", file=name)
    assert image(host.run(loaded)) == image(saved)


# what ships


def test_the_shipped_workflow_lacks_nothing_but_its_checkpoint(host: ComfyUI) -> None:
    prompt = json.loads((ROOT / "workflows/api/sd15_call_skip.json").read_text())
    rejected = host.run(prompt)
    errors = [e for n in rejected.detail["node_errors"].values() for e in n["errors"]]
    assert [(e["type"], e["extra_info"]["input_name"]) for e in errors] == [("value_not_in_list", "ckpt_name")]
    own = {k: v for k, v in prompt["2"]["inputs"].items() if k != "model"}
    result = host.run(patched(picture("SD3", steps=25), "SkipstoneCallSkip", "calls", **own))
    assert image(result) and reported(result) == (12, 25)


def test_help_page_and_texts_are_served(host: ComfyUI) -> None:
    page = host.get("/extensions/skipstone/docs/SkipstoneCallSkip.md")
    assert page == (ROOT / "web/docs/SkipstoneCallSkip.md").read_bytes()
    info = json.loads(host.get("/object_info/SkipstoneCallSkip"))["SkipstoneCallSkip"]
    assert (info["display_name"], info["category"], info["output"]) == ("Call Skip", "Skipstone", ["MODEL"])
    keys = info["input"]["optional"]["keys"][1]
    assert (keys["default"], keys["placeholder"], keys["advanced"]) == ("", "0, 1, 3, 5, 19", True)
