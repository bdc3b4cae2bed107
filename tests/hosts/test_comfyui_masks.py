"""The nodes of block masks in a real ComfyUI. Needs what test_comfyui.py needs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hosts.comfy_prompts import SIZES, image, merged, node, patched, text2img
from hosts.comfyui import ROOT, ComfyUI, Prompt, Result, places
from hosts.test_comfyui import host

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

SIZES.setdefault("Flux", 128)
RULES = {
    "SD1.5": "deepcache", "SDXL": "deepcache", "SVD": "deepcache", "PixArt": "fora", "SD3": "interval", "Flux": "interval",
    "Chroma": "interval",
}  # fmt: skip
NOT_SERVED = {
    "Wan": "WAN21", "LTXV": "LTXV", "HunyuanVideo": "HunyuanVideo", "Cosmos": "CosmosVideo", "Cosmos 2": "CosmosPredict2",
    "Mochi": "GenmoMochi",
}  # fmt: skip
"""Kind of model -> the name by which ComfyUI knows it."""

KNOWN = "Skipstone works on SD1.x, SD2.x, SDXL, SVD, PixArt, SD3, Flux and Chroma, and Call Skip on any model"

EMPTY_16 = ("SD3", "Flux")


def picture(kind: str = "SD1.5", **options: Any) -> Prompt:
    """A dense prompt; Flux begins with SD3's kind of latent, video models and Chroma with one of the probe's."""
    if kind in NOT_SERVED or kind in ("SVD", "Chroma"):
        prompt = text2img(kind, size=128, **options)
        tokens = 256 if kind == "Mochi" else 77
        conds = {name: node("ProbeConditioning", kind=kind, tokens=tokens, rng=i)
                 for i, name in enumerate(("positive", "negative"))}  # fmt: skip
        return {**prompt, **conds, "empty": node("ProbeLatent", kind=kind)}
    prompt = text2img(kind, **options)
    return {**prompt, "empty": {**prompt["empty"], "class_type": "EmptySD3LatentImage"}} if kind in EMPTY_16 else prompt


def skipped(prompt: Prompt, rule: str = "deepcache", every: int = 2, **rare: Any) -> Prompt:
    """With a rule and a Block Mask in front of the KSampler."""
    rules = {"rule": node("SkipstoneMaskRule", rule=rule, every=every, **rare)}
    return {**rules, **patched(prompt, "SkipstoneBlockMask", "mask", mask=["rule", 0])}


def counts(result: Result, name: str = "mask") -> tuple[int, int, int]:
    """Blocks that ran, all blocks, and calls, from the report on the node; of its last run where there were several."""
    found = re.findall(r"ran (\d+) of (\d+) blocks in (\d+) calls?,", result.report(name))
    assert found, result.texts
    ran, blocks, calls = found[-1]
    return int(ran), int(blocks), int(calls)


@pytest.mark.parametrize("kind", RULES)
def test_dense_skipped_neutral_bypassed(host: ComfyUI, kind: str) -> None:
    dense = image(host.run(picture(kind)))
    first = host.run(skipped(picture(kind), RULES[kind]))
    assert image(first) != dense
    ran, blocks, calls = counts(first)
    assert calls == 4 and blocks // 2 <= ran < blocks
    assert image(host.run(skipped(picture(kind), RULES[kind], every=1))) == dense
    assert image(host.run(skipped(picture(kind), RULES[kind]))) == image(first)
    assert image(host.run(picture(kind))) == dense


@pytest.mark.parametrize("kind", NOT_SERVED)
def test_video_models_come_dense_and_one_line_says_so(host: ComfyUI, kind: str) -> None:
    dense = image(host.run(picture(kind)))
    before = len(host.log())
    result = host.run(skipped(picture(kind), "interval"))
    assert image(result) == dense
    reason = f"{NOT_SERVED[kind]} is not supported: {KNOWN}; sampling runs unaccelerated"
    assert result.report("mask") == reason
    assert host.log()[before:].count(f"Skipstone: {NOT_SERVED[kind]}") == 1 and reason in host.log()[before:]


@pytest.mark.parametrize("kind", ["SD1.5", "PixArt"])
def test_merging_and_a_mask_join_in_both_orders(host: ComfyUI, kind: str) -> None:
    one = host.run(skipped(merged(picture(kind)), RULES[kind]))
    other = host.run(merged(skipped(picture(kind), RULES[kind])))
    assert image(one) == image(other)
    assert image(one) not in {image(host.run(p)) for p in (merged(picture(kind)), skipped(picture(kind), RULES[kind]))}
    for result in (one, other):
        assert result.report("merge") == result.report("mask")
        assert result.report().startswith("merged ") and counts(result)[2] == 4


def test_on_sd3_tokens_merge_in_the_blocks_that_run(host: ComfyUI) -> None:
    result = host.run(skipped(merged(picture("SD3"), threshold=-1.0), "interval"))
    assert image(result) != image(host.run(skipped(picture("SD3"), "interval")))
    assert result.report("mask").startswith("merged 75% of tokens in ") and "blocks in 4 calls" in result.report("mask")


OPTIONS = [
    {"batch": 2}, {"cfg": 1.0}, {"tokens": 154}, {"tokens": 100}, {"size": 136}, {"denoise": 0.5}, {"scheduler": "karras"},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["SD1.5", "SD3"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_shapes_conds_and_schedules(host: ComfyUI, kind: str, options: dict[str, Any]) -> None:
    """100 tokens do not batch with 77: cond and uncond come in two forwards."""
    result = host.run(skipped(picture(kind, **options), RULES[kind]))
    assert image(result) != image(host.run(picture(kind, **options)))
    ran, blocks, calls = counts(result)
    assert calls == 4 and ran < blocks


def test_a_batch_member_is_what_it_is_alone_in_counts(host: ComfyUI) -> None:
    assert counts(host.run(skipped(picture(batch=2)))) == counts(host.run(skipped(picture())))


@pytest.mark.parametrize(
    "name", ["heun", "dpm_adaptive", "dpmpp_sde", "dpmpp_2m_sde", "lcm", "uni_pc", "euler_ancestral_cfg_pp"]
)
@pytest.mark.parametrize("kind", ["SD1.5", "SD3"])
def test_samplers(host: ComfyUI, kind: str, name: str) -> None:
    prompt = picture(kind, sampler_name=name, steps=3, cfg=2.0)
    result = host.run(skipped(prompt, RULES[kind]))
    ran, blocks, calls = counts(result)
    assert image(result) and ran < blocks and calls >= 3
    assert ("calls not known ahead" in result.report("mask")) == (name in ("heun", "dpm_adaptive", "dpmpp_sde"))
    assert image(host.run(skipped(prompt, RULES[kind]))) == image(result)


def test_image_to_image_after_a_first_sampler(host: ComfyUI) -> None:
    def two(mask: bool) -> Prompt:
        prompt = skipped(picture()) if mask else picture()
        first = {**prompt["sampler"]["inputs"]}
        bigger = node(
            "LatentUpscale",
            samples=["sampler", 0],
            upscale_method="nearest-exact",
            width=192,
            height=128,
            crop="disabled",
        )
        second = node("KSampler", **{**first, "latent_image": ["bigger", 0], "denoise": 0.5, "steps": 6})
        looks = {
            name: node(prompt[name]["class_type"], **{**prompt[name]["inputs"], "samples": ["second", 0]})
            for name in ("digest", "leftovers")
        }
        return {**prompt, "bigger": bigger, "second": second, **looks}

    result = host.run(two(True))
    assert image(result) != image(host.run(two(False)))
    assert counts(result)[2] == 6, "the report is that of the last run"
    assert image(host.run(two(True))) == image(result)


def test_cancel_then_dense_is_dense(host: ComfyUI) -> None:
    dense, first = image(host.run(picture())), image(host.run(skipped(picture())))
    cancelled = host.run(patched(skipped(picture()), "ProbeCancel", "cancel", call=4))
    assert cancelled.status == "error" and cancelled.detail[0] == "execution_interrupted"
    assert image(host.run(picture())) == dense
    assert image(host.run(skipped(picture()))) == first


def with_control(prompt: Prompt) -> Prompt:
    control = node("ControlNetApplyAdvanced", positive=["positive", 0], negative=["negative", 0], control_net=["net", 0],
                   image=["hint", 0], strength=1.0, start_percent=0.0, end_percent=1.0)  # fmt: skip
    hint = node("EmptyImage", width=128, height=128, batch_size=1, color=0x40A0F0)
    prompt["sampler"]["inputs"] |= {"positive": ["control", 0], "negative": ["control", 1]}
    return {**prompt, "net": node("ProbeControlNet"), "hint": hint, "control": control}


def test_controlnet(host: ComfyUI) -> None:
    result = host.run(with_control(skipped(picture())))
    assert image(result) not in {image(host.run(p)) for p in (skipped(picture()), with_control(picture()))}
    assert counts(result) == counts(host.run(skipped(picture())))
    assert image(host.run(with_control(skipped(picture(), every=1)))) == image(host.run(with_control(picture())))


def test_lora(host: ComfyUI) -> None:
    result = host.run(skipped(patched(picture(), "ProbeLora", "lora")))
    assert image(result) != image(host.run(skipped(picture())))
    assert image(host.run(patched(skipped(picture()), "ProbeLora", "lora"))) == image(result)


def test_area_conds_share_a_uuid(host: ComfyUI) -> None:
    def areas(prompt: Prompt) -> Prompt:
        area = node("ConditioningSetArea", conditioning=["other", 0], width=64, height=128, x=64, y=0, strength=1.0)
        both = node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["area", 0])
        other = node("ProbeConditioning", kind="SD1.5", tokens=77, rng=3)
        prompt["sampler"]["inputs"]["positive"] = ["both", 0]
        return {**prompt, "other": other, "area": area, "both": both}

    result = host.run(areas(skipped(picture())))
    assert image(result) != image(host.run(areas(picture()))) and counts(result)[0] < counts(result)[1]


OTHERS = {
    "TomePatchModel": {"ratio": 0.5},
    "HyperTile": {"tile_size": 64, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "EasyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
    "LazyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False},
}


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
@pytest.mark.parametrize("other", OTHERS)
def test_together_with_other_nodes(host: ComfyUI, other: str, first: bool) -> None:
    def together(every: int) -> Prompt:
        if first:
            return skipped(patched(picture(steps=6), other, "other", **OTHERS[other]), every=every)
        return patched(skipped(picture(steps=6), every=every), other, "other", **OTHERS[other])

    result = host.run(together(2))
    ran, blocks, _ = counts(result)
    assert image(result) != image(host.run(picture(steps=6))) and ran <= blocks
    if "Cache" not in other:
        assert ran < blocks and image(result) != image(host.run(together(1)))
        assert image(host.run(together(1))) == image(
            host.run(patched(picture(steps=6), other, "other", **OTHERS[other]))
        )


RARE = [
    {"branch": 1}, {"rule": "depths", "depths": "12, 1, 2, 0"}, {"last_full": True}, {"start_percent": 0.5},
    {"end_percent": 0.5}, {"rule": "interval"}, {"every": 3},
]  # fmt: skip


@pytest.mark.parametrize("rare", RARE, ids=str)
def test_every_widget_changes_the_image(host: ComfyUI, rare: dict[str, Any]) -> None:
    assert image(host.run(skipped(picture(), **rare))) != image(host.run(skipped(picture())))


def test_a_wrong_list_is_told_and_the_image_comes_dense(host: ComfyUI) -> None:
    result = host.run(skipped(picture(), "depths", depths="deep"))
    assert image(result) == image(host.run(picture()))
    assert result.report("rule").startswith("depths 'deep' cannot be read")
    assert result.report("mask").startswith("no mask came in")


def test_save_load_and_draw(host: ComfyUI) -> None:
    """The file's 4 steps are those of the run, up to rounding of the scheduler's noise levels."""
    prompt = skipped(picture())
    save = node("SkipstoneMaskSaver", model=["model", 0], mask=["rule", 0], steps=4, filename_prefix="test")
    draw = node("SkipstoneMaskPreview", model=["model", 0], mask=["rule", 0], steps=4)
    by_rule = host.run({**prompt, "save": save, "draw": draw, "show": node("PreviewImage", images=["draw", 0])})
    expected = image(by_rule)
    (name, told) = by_rule.report("save").split(": ", 1)
    assert told.startswith("ldm U-Net, 4 steps x 15 blocks"), told
    info = json.loads(host.get("/object_info/SkipstoneMaskLoader"))["SkipstoneMaskLoader"]["input"]["required"]["file"]
    assert name in (info[0] if isinstance(info[0], list) else info[1]["options"])
    by_file = host.run({**patched(picture(), "SkipstoneBlockMask", "mask", mask=["file", 0]),
                        "file": node("SkipstoneMaskLoader", file=name)})  # fmt: skip
    assert image(by_file) == expected and counts(by_file) == counts(by_rule)
    wrong = host.run({**patched(picture("SD3"), "SkipstoneBlockMask", "mask", mask=["file", 0]),
                      "file": node("SkipstoneMaskLoader", file=name)})  # fmt: skip
    assert image(wrong) == image(host.run(picture("SD3")))
    assert (
        wrong.report("mask")
        == "the mask is for a ldm U-Net, this model is a SD3: choose a mask made for it; sampling runs unaccelerated"
    )


def test_the_shipped_workflow_lacks_nothing_but_its_checkpoint(host: ComfyUI) -> None:
    prompt = json.loads((ROOT / "workflows/api/sd15_deepcache_rule.json").read_text())
    rejected = host.run(prompt)
    errors = [e for n in rejected.detail["node_errors"].values() for e in n["errors"]]
    assert [(e["type"], e["extra_info"]["input_name"]) for e in errors] == [("value_not_in_list", "ckpt_name")]
    own = prompt["10"]["inputs"]
    assert counts(host.run(skipped(picture(), **own)))[2] == 4


def test_help_pages_and_texts_are_served(host: ComfyUI) -> None:
    texts = json.loads(host.get("/i18n"))["en"]["nodeDefs"]
    for name in ("BlockMask", "MaskRule", "MaskLoader", "MaskSaver", "MaskPreview"):
        page = host.get(f"/extensions/skipstone/docs/Skipstone{name}.md")
        assert page == (ROOT / f"web/docs/Skipstone{name}.md").read_bytes()
        info = json.loads(host.get(f"/object_info/Skipstone{name}"))[f"Skipstone{name}"]
        assert info["display_name"] == texts[f"Skipstone{name}"]["display_name"]
