"""The node in a real ComfyUI.

Needs `COMFYUI_PATH`, a checkout of ComfyUI, or several joined as in PATH. Optional: `COMFYUI_PYTHON` (its interpreter, by
default venv/bin/python) and `COMFYUI_ARGS`, flags in place of those for a CPU. No checkpoint is needed: models are tiny and
random. On a GPU the flags are `--deterministic`, since CUDA adds in no fixed order without it, and a way to hold weights:
`--novram`, `--highvram`, or `--disable-dynamic-vram`, with or without `--lowvram`. With dynamic VRAM, ComfyUI's way on NVIDIA's
cards, layers have no weights before a file is loaded, and the networks of these tests are made without one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hosts.comfy_prompts import calls, image, merged, node, patched, share, text2img
from hosts.comfyui import ROOT, ComfyUI, Prompt, places

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

SERVED = ("SD1.5", "SDXL", "PixArt")
LEVELS = {
    "heun": 3, "sa_solver_pece": 3, "dpm_2_ancestral": 3, "dpmpp_2s_ancestral": 3, "dpm_2": 5, "dpmpp_sde": 5, "seeds_2": 5,
    "heunpp2": 5, "seeds_3": 7,
}  # fmt: skip
"""Noise levels in a run of 3 steps: heun and ancestral samplers evaluate one of them twice, heunpp2 goes back up."""


@pytest.fixture(scope="module", params=places(), ids=lambda path: path.name)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A running ComfyUI."""
    with ComfyUI(request.param, tmp_path_factory.mktemp("comfyui")) as host:
        yield host


@pytest.mark.parametrize("kind", SERVED)
def test_dense_merged_neutral_bypassed(host: ComfyUI, kind: str) -> None:
    dense = image(host.run(text2img(kind)))
    first = host.run(merged(text2img(kind)))
    assert image(first) != dense and share(first) > 0
    assert image(host.run(merged(text2img(kind), threshold=1.0))) == dense
    again = host.run(merged(text2img(kind)))
    assert image(again) == image(first) and again.texts == first.texts
    assert image(host.run(text2img(kind))) == dense


def test_the_log_tells_it_in_one_line(host: ComfyUI) -> None:
    before = len(host.log())
    result = host.run(merged(text2img()))
    lines = [line for line in host.log()[before:].splitlines() if "Skipstone" in line]
    assert len(lines) == 1 and result.report() in lines[0]


def test_joint_attention_runs_on_fewer_picture_tokens(host: ComfyUI) -> None:
    dense = image(host.run(text2img("SD3")))
    result = host.run(merged(text2img("SD3"), threshold=-1.0))
    assert result.report().startswith("merged 75% of tokens in ") and image(result) != dense
    assert image(host.run(merged(text2img("SD3"), threshold=1.0))) == dense
    assert image(host.run(text2img("SD3"))) == dense


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 2},
        {"cfg": 1.0},
        {"tokens": 154},
        {"tokens": 100},
        {"size": 136},
        {"size": 104},
        {"steps": 1},
        {"scheduler": "karras"},
    ],
    ids=str,
)
def test_shapes_and_conds(host: ComfyUI, options: dict[str, Any]) -> None:
    """100 tokens do not batch with 77: cond and uncond come in two forwards."""
    result = host.run(merged(text2img(**options)))
    assert image(result) != image(host.run(text2img(**options))) and share(result) > 0
    assert calls(result) == options.get("steps", 4)


def test_every_sampler_runs_and_its_calls_are_known(host: ComfyUI) -> None:
    info = json.loads(host.get("/object_info/KSampler"))["KSampler"]["input"]["required"]["sampler_name"]
    names = info[0] if isinstance(info[0], list) else info[1]["options"]
    assert len(names) > 40
    counted = {}
    for name in names:
        result = host.run(merged(text2img(steps=3, sampler_name=name, cfg=2.0)))
        assert result.status == "success" and result.outputs["leftovers"] == "" and share(result) > 0, name
        counted[name] = calls(result)
    assert {name: counted[name] for name in LEVELS} == LEVELS
    one_call = [name for name, count in counted.items() if count == 3]
    assert {"euler", "euler_ancestral_cfg_pp", "dpmpp_2m", "ddim", "uni_pc_bh2", "er_sde", "lcm"} <= set(one_call)


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m_sde", "uni_pc"])
def test_samplers_give_the_same_image_twice(host: ComfyUI, name: str) -> None:
    first, second = (host.run(merged(text2img(sampler_name=name))) for _ in range(2))
    assert image(first) == image(second) != image(host.run(text2img(sampler_name=name)))


def two_samplers(merge: bool) -> Prompt:
    prompt = merged(text2img()) if merge else text2img()
    inputs = prompt["sampler"]["inputs"]
    upscaled = node(
        "LatentUpscale", samples=["sampler", 0], upscale_method="nearest-exact", width=192, height=128, crop="disabled"
    )
    second = {**inputs, "latent_image": ["upscaled", 0], "denoise": 0.5, "steps": 6}
    looks = {
        name: node(prompt[name]["class_type"], **{**prompt[name]["inputs"], "samples": ["second", 0]})
        for name in ("digest", "leftovers")
    }
    return {**prompt, "upscaled": upscaled, "second": node("KSampler", **second), **looks}


def test_two_samplers_and_image_to_image(host: ComfyUI) -> None:
    dense, result = host.run(two_samplers(False)), host.run(two_samplers(True))
    assert image(result) != image(dense)
    first, second = re.findall(r"run \d: merged \d+% .*? (\d+) calls?: ", result.report())
    assert (first, second) == ("4", "6")
    assert image(host.run(two_samplers(True))) == image(result)


def test_advanced_sampler_in_two_halves(host: ComfyUI) -> None:
    prompt = merged(text2img())
    shared = {k: v for k, v in prompt["sampler"]["inputs"].items() if k not in ("seed", "denoise", "latent_image")}
    shared |= {"noise_seed": 1, "steps": 8}
    first = node("KSamplerAdvanced", **shared, latent_image=["empty", 0], add_noise="enable", start_at_step=0, end_at_step=4,
                 return_with_leftover_noise="enable")  # fmt: skip
    prompt |= {"first": first}
    prompt["sampler"] = node("KSamplerAdvanced", **shared, latent_image=["first", 0], add_noise="disable", start_at_step=4,
                             end_at_step=10000, return_with_leftover_noise="disable")  # fmt: skip
    result = host.run(prompt)
    assert image(result) and calls(result) == 4


def test_cancel_in_mid_network(host: ComfyUI) -> None:
    dense = image(host.run(text2img()))
    cancelled = host.run(patched(merged(text2img()), "ProbeCancel", "cancel", call=10))
    assert cancelled.status == "error" and cancelled.detail[0] == "execution_interrupted"
    assert image(host.run(text2img())) == dense
    assert share(host.run(merged(text2img()))) > 0


def test_area_conds_share_a_uuid(host: ComfyUI) -> None:
    def areas(prompt: Prompt) -> Prompt:
        area = node("ConditioningSetArea", conditioning=["other", 0], width=64, height=128, x=64, y=0, strength=1.0)
        both = node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["area", 0])
        other = node("ProbeConditioning", kind="SD1.5", tokens=77, rng=3)
        prompt["sampler"]["inputs"]["positive"] = ["both", 0]
        return {**prompt, "other": other, "area": area, "both": both}

    result = host.run(areas(merged(text2img())))
    assert image(result) != image(host.run(areas(text2img()))) and share(result) > 0


def test_a_cond_that_starts_in_mid_run(host: ComfyUI) -> None:
    def late(prompt: Prompt) -> Prompt:
        ranged = node("ConditioningSetTimestepRange", conditioning=["other", 0], start=0.4, end=1.0)
        both = node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["ranged", 0])
        other = node("ProbeConditioning", kind="SD1.5", tokens=77, rng=3)
        prompt["sampler"]["inputs"]["positive"] = ["both", 0]
        return {**prompt, "other": other, "ranged": ranged, "both": both}

    result = host.run(late(merged(text2img(steps=6))))
    assert image(result) != image(host.run(late(text2img(steps=6)))) and share(result) > 0


OTHERS = {
    "TomePatchModel": {"ratio": 0.5},
    "HyperTile": {"tile_size": 64, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "RescaleCFG": {"multiplier": 0.7},
    "LazyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
    "EasyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
    "ModelSamplingDiscrete": {"sampling": "lcm", "zsnr": False},
    "ModelSamplingContinuousEDM": {"sampling": "eps", "sigma_max": 120.0, "sigma_min": 0.002},
}
REPLACE_OUR_TOKENS = ("TomePatchModel", "HyperTile")


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize("other", OTHERS)
def test_together_with_other_nodes(host: ComfyUI, other: str, first: bool) -> None:
    def together(threshold: float) -> Prompt:
        if first:
            return merged(patched(text2img(size=256), other, "other", **OTHERS[other]), threshold)
        return patched(merged(text2img(size=256), threshold), other, "other", **OTHERS[other])

    result = host.run(together(0.3))
    assert image(result)
    if other in REPLACE_OUR_TOKENS:
        assert (
            "unaccelerated: its tokens are not" in result.report()
            or "unaccelerated: its attention takes" in result.report()
        )
        return
    assert share(result) > 0
    if other not in ("LazyCache", "EasyCache"):
        assert image(result) != image(host.run(together(1.0)))


def test_with_a_lora(host: ComfyUI) -> None:
    def with_lora(threshold: float) -> str:
        return image(host.run(merged(patched(text2img(), "ProbeLora", "lora"), threshold)))

    assert len({with_lora(0.3), with_lora(1.0), image(host.run(merged(text2img()))), image(host.run(text2img()))}) == 4


def test_with_a_controlnet(host: ComfyUI) -> None:
    def controlled(prompt: Prompt) -> Prompt:
        picture = node("EmptyImage", width=128, height=128, batch_size=1, color=0xFF8800)
        apply = node("ControlNetApplyAdvanced", positive=["positive", 0], negative=["negative", 0], image=["picture", 0],
                     control_net=["controlnet", 0], strength=0.5, start_percent=0.0, end_percent=0.7)  # fmt: skip
        prompt["sampler"]["inputs"] |= {"positive": ["apply", 0], "negative": ["apply", 1]}
        return {**prompt, "controlnet": node("ProbeControlNet"), "picture": picture, "apply": apply}

    result = host.run(controlled(merged(text2img())))
    others = [image(host.run(p)) for p in (controlled(text2img()), merged(text2img()))]
    assert image(result) not in others and share(result) > 0


def test_two_of_ours_the_later_counts(host: ComfyUI) -> None:
    both = patched(
        merged(text2img(), threshold=0.9), "SkipstoneTokenMerge", "later", threshold=0.3, checkpoints="config_3"
    )
    result = host.run(both)
    assert image(result) == image(host.run(merged(text2img())))
    assert result.report("later").startswith("merged ")
    assert result.report("merge") == "replaced: a later node merges tokens in its place"


# local matching compares inside tiles of 16 x 16 tokens, so that it differs on larger grids only
RARE = [
    {"proportional": True},
    {"matching": "local"},
    {"max_downsample": "8"},
    {"batch": "max"},
    {"destination": "random"},
    {"stride": 4},
    {"start_percent": 0.5},
    {"end_percent": 0.5},
    {"merge_cross_attention": True},
    {"merge_mlp": True},
    {"checkpoints": "custom", "custom_checkpoints": "0, 25"},
]


@pytest.mark.parametrize("rare", RARE, ids=str)
def test_every_rare_widget_changes_the_image(host: ComfyUI, rare: dict[str, Any]) -> None:
    plain = text2img(batch=2, steps=6, size=256 if "matching" in rare else None)
    result = host.run(merged(plain, **rare))
    assert image(result) != image(host.run(merged(plain))) and share(result) > 0
    assert "off" not in result.report()


def test_proportional_attention_is_declined_for_pixart(host: ComfyUI) -> None:
    result = host.run(merged(text2img("PixArt"), proportional=True))
    assert image(result) == image(host.run(merged(text2img("PixArt"))))
    assert "proportional attention is off: AttentionKVCompress takes no key bias" in result.report()


def test_a_wrong_list_is_told_on_the_node_and_the_image_comes_dense(host: ComfyUI) -> None:
    result = host.run(merged(text2img(), checkpoints="custom", custom_checkpoints="sometimes"))
    assert image(result) == image(host.run(text2img()))
    assert result.report().startswith("checkpoints 'sometimes' cannot be read") and result.report().endswith(
        "sampling runs unaccelerated"
    )


def test_a_threshold_out_of_range_is_refused_by_the_host(host: ComfyUI) -> None:
    result = host.run(merged(text2img(), threshold=1.5))
    assert result.status == "rejected" and "value_bigger_than_max" in json.dumps(result.detail)


def test_the_shipped_workflow_lacks_nothing_but_its_checkpoint(host: ComfyUI) -> None:
    prompt = json.loads((ROOT / "workflows/api/sd15_token_merge.json").read_text())
    rejected = host.run(prompt)
    errors = [e for n in rejected.detail["node_errors"].values() for e in n["errors"]]
    assert [(e["type"], e["extra_info"]["input_name"]) for e in errors] == [("value_not_in_list", "ckpt_name")]
    own = {k: v for k, v in prompt["2"]["inputs"].items() if k != "model"}
    result = host.run(patched(text2img(), "SkipstoneTokenMerge", "merge", **{**own, "threshold": 0.3}))
    assert image(result) == image(host.run(merged(text2img())))


def test_template_help_page_and_texts_are_served(host: ComfyUI) -> None:
    assert "sd15_token_merge" in json.loads(host.get("/workflow_templates"))["skipstone"]
    for name in ("sd15_token_merge.json", "sd15_token_merge.jpg"):
        assert host.get(f"/api/workflow_templates/skipstone/{name}") == (ROOT / "workflows" / name).read_bytes()
    page = host.get("/extensions/skipstone/docs/SkipstoneTokenMerge.md")
    assert page == (ROOT / "web/docs/SkipstoneTokenMerge.md").read_bytes()
    texts = json.loads(host.get("/i18n"))["en"]["nodeDefs"]
    assert texts["SkipstoneTokenMerge"]["display_name"] == "Token Merge (CA-ToMe)"


def test_the_page_gets_slider_tooltips_and_advanced_widgets(host: ComfyUI) -> None:
    info = json.loads(host.get("/object_info/SkipstoneTokenMerge"))["SkipstoneTokenMerge"]
    inputs = {**info["input"]["required"], **info["input"]["optional"]}
    assert (info["display_name"], info["category"]) == ("Token Merge (CA-ToMe)", "Skipstone")
    assert inputs["threshold"][1]["display"] == "slider"
    assert all(options["tooltip"] for _, options in inputs.values())
    shown = {name for name, (_, options) in inputs.items() if not options.get("advanced")}
    assert shown == {"model", "threshold", "checkpoints", "custom_checkpoints"}
