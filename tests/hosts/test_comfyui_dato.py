"""DaTo and recipe files in a real ComfyUI. Needs what test_comfyui.py needs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hosts.comfy_prompts import image, merged, node, patched, text2img
from hosts.comfyui import ROOT, ComfyUI, Prompt, Result, places
from hosts.test_comfyui import host
from hosts.test_comfyui_masks import picture, skipped, with_control

from skipstone.core.recipe.presets import preset as ready

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

OWN = {"preset": "custom", "ratio": 0.5, "custom_depths": "1, 0, 12, 1", "custom_ratios": ""}


def pruned(prompt: Prompt, name: str = "dato", **widgets: Any) -> Prompt:
    """With DaTo in front of the KSampler, by default with lists for runs of a few steps."""
    return patched(prompt, "SkipstoneDaTo", name, **{**OWN, **widgets})


def share(result: Result, name: str = "dato") -> int:
    """Percent of tokens pruned, from the report on the node."""
    found = re.match(
        r"pruned (\d+)% of tokens in \d+ layers, saved -?\d+% of their attention; \d+ calls:", result.report(name)
    )
    assert found, result.texts
    return int(found[1])


def blocks(result: Result, name: str = "dato") -> tuple[int, int, int]:
    """Blocks that ran, all blocks, and calls."""
    found = re.search(r"ran (\d+) of (\d+) blocks in (\d+) calls?,", result.report(name))
    assert found, result.texts
    return int(found[1]), int(found[2]), int(found[3])


@pytest.mark.parametrize("kind", ["SD1.5", "SDXL"])
def test_dense_pruned_neutral_bypassed(host: ComfyUI, kind: str) -> None:
    dense = image(host.run(picture(kind)))
    first = host.run(pruned(picture(kind)))
    ran, all_blocks, calls = blocks(first)
    assert image(first) != dense and 40 <= share(first) <= 51
    assert calls == 4 and all_blocks // 4 < ran < all_blocks
    off = host.run(pruned(picture(kind), ratio=0.0, custom_depths=""))
    assert image(off) == dense and off.report("dato").startswith("off: ")
    again = host.run(pruned(picture(kind)))
    assert image(again) == image(first) and again.texts == first.texts
    assert image(host.run(picture(kind))) == dense


def test_pruning_nothing_and_running_all_is_bit_identical(host: ComfyUI) -> None:
    """The methods are at work and change no bit."""
    all_depths = host.run(pruned(picture(), ratio=0.0, custom_depths="12"))
    assert image(all_depths) == image(host.run(picture()))
    assert "the schedule runs every block" in all_depths.report("dato")


@pytest.mark.parametrize("preset", ["dato_coco", "dato_b", "dato_c", "dato_d", "dato_reference"])
def test_every_preset_runs_at_its_ratio(host: ComfyUI, preset: str) -> None:
    prompt = picture(steps=8)
    result = host.run(pruned(prompt, preset=preset, ratio=0.4))
    assert image(result) != image(host.run(prompt))
    assert 30 <= share(result) <= 41 and blocks(result)[2] == 8


def test_the_gentle_preset_forecasts_and_prunes_nothing(host: ComfyUI) -> None:
    prompt = picture(steps=20)
    result = host.run(pruned(prompt, preset="dato_gentle"))
    ran, all_blocks, calls = blocks(result)
    assert image(result) != image(host.run(prompt)) and calls == 20 and 0.4 < ran / all_blocks < 0.8
    assert "pruned" not in result.report("dato")
    skip = ready("dato_gentle").skip
    assert skip is not None
    repeated = host.run(pruned(prompt, ratio=0.0, custom_depths=" ".join(map(str, skip.depths))))
    assert image(result) != image(repeated) and blocks(repeated) == blocks(result)


def test_pixart_is_pruned_beside_a_mask(host: ComfyUI) -> None:
    prune = {"custom_depths": "", "ratio": 0.5}
    alone = host.run(pruned(picture("PixArt"), **prune))
    both = host.run(skipped(pruned(picture("PixArt"), **prune), "fora"))
    assert share(alone) == 50 and "blocks" not in alone.report("dato")
    assert image(both) not in (image(alone), image(host.run(skipped(picture("PixArt"), "fora"))))
    assert both.report("dato") == both.report("mask") and blocks(both, "mask")[0] < blocks(both, "mask")[1]


@pytest.mark.parametrize("kind", ["SD3", "Flux"])
def test_joint_attention_is_pruned_under_the_schedule(host: ComfyUI, kind: str) -> None:
    result = host.run(pruned(picture(kind)))
    assert image(result) != image(host.run(picture(kind)))
    assert blocks(result)[2] == 4 and share(result) > 0


OPTIONS = [
    {"batch": 2}, {"cfg": 1.0}, {"tokens": 154}, {"tokens": 100}, {"size": 136}, {"denoise": 0.5}, {"scheduler": "karras"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_shapes_conds_and_schedules(host: ComfyUI, options: dict[str, Any]) -> None:
    """100 tokens do not batch with 77: cond and uncond come in two forwards."""
    result = host.run(pruned(picture(**options)))
    assert image(result) != image(host.run(picture(**options)))
    assert share(result) > 20 and blocks(result)[2] == 4


@pytest.mark.parametrize("name", ["heun", "dpmpp_sde", "dpmpp_2m_sde", "lcm", "uni_pc"])
def test_samplers(host: ComfyUI, name: str) -> None:
    prompt = picture(sampler_name=name, steps=3, cfg=2.0)
    result = host.run(pruned(prompt))
    assert image(result) != image(host.run(prompt)) and blocks(result)[2] >= 3
    assert ("calls not known ahead" in result.report("dato")) == (name in ("heun", "dpmpp_sde"))
    assert image(host.run(pruned(prompt))) == image(result)


def test_controlnet_and_lora(host: ComfyUI) -> None:
    results = [
        image(host.run(prompt))
        for prompt in (
            pruned(picture()),
            with_control(pruned(picture())),
            with_control(picture()),
            pruned(patched(picture(), "ProbeLora", "lora")),
        )
    ]
    assert len(set(results)) == 4
    assert image(host.run(patched(pruned(picture()), "ProbeLora", "lora"))) == results[3]


def test_two_samplers_on_one_model(host: ComfyUI) -> None:
    prompt = pruned(picture())
    second = {**prompt["sampler"]["inputs"], "latent_image": ["sampler", 0], "denoise": 0.5, "steps": 6}
    looks = {
        name: node(prompt[name]["class_type"], **{**prompt[name]["inputs"], "samples": ["second", 0]})
        for name in ("digest", "leftovers")
    }
    two = {**prompt, "second": node("KSampler", **second), **looks}
    result = host.run(two)
    assert [int(n) for n in re.findall(r"blocks in (\d+) calls", result.report("dato"))] == [4, 6]
    assert image(host.run(two)) == image(result)


def test_cancel_then_dense_is_dense(host: ComfyUI) -> None:
    dense, first = image(host.run(picture())), image(host.run(pruned(picture())))
    cancelled = host.run(patched(pruned(picture()), "ProbeCancel", "cancel", call=4))
    assert cancelled.status == "error" and cancelled.detail[0] == "execution_interrupted"
    assert image(host.run(picture())) == dense
    assert image(host.run(pruned(picture()))) == first


def test_of_merging_and_pruning_the_later_counts(host: ComfyUI) -> None:
    result = host.run(pruned(merged(picture())))
    assert image(result) == image(host.run(pruned(picture())))
    assert result.report("merge") == "replaced: a later node prunes tokens in its place"
    other = host.run(merged(pruned(picture())))
    depths = skipped(picture(), "depths", depths=OWN["custom_depths"])
    assert image(other) == image(host.run(merged(depths)))
    assert other.report("dato") == other.report("merge") + " replaced: a later node merges tokens in its place"


def test_a_block_mask_takes_the_schedules_place(host: ComfyUI) -> None:
    """Pruning stays, in either order of the two methods."""
    later = host.run(skipped(pruned(picture()), every=3))
    alone = host.run(skipped(pruned(picture(), custom_depths=""), every=3))
    assert image(later) == image(alone) != image(host.run(pruned(skipped(picture(), every=3))))


@pytest.mark.parametrize("other", ["PerturbedAttentionGuidance", "FreeU_V2", "EasyCache"])
def test_together_with_other_nodes(host: ComfyUI, other: str) -> None:
    from hosts.test_comfyui_masks import OTHERS

    prompt = patched(picture(steps=6), other, "other", **OTHERS[other])
    result = host.run(pruned(prompt))
    assert image(result) != image(host.run(prompt)) or "Cache" in other
    assert share(result) > 0
    assert image(host.run(pruned(prompt, ratio=0.0, custom_depths=""))) == image(host.run(prompt))


RARE = [
    {"ratio": 0.3}, {"custom_ratios": "0.7, 0.1"}, {"custom_depths": "0, 1"}, {"recover_from": "kept"}, {"gamma": 0.0},
    {"alpha": 2.0}, {"draw": 5}, {"max_downsample": "8"}, {"stride": 4}, {"start_percent": 0.5}, {"end_percent": 0.5},
    {"last_full": True}, {"forecast": True}, {"matching": "local"},
]  # fmt: skip


@pytest.mark.parametrize("rare", RARE, ids=str)
def test_every_widget_changes_the_image(host: ComfyUI, rare: dict[str, Any]) -> None:
    """Local matching compares inside tiles of 16 x 16 tokens, so that it differs on larger grids only."""
    plain = picture(steps=6, size=256 if "matching" in rare else None)
    assert image(host.run(pruned(plain, **rare))) != image(host.run(pruned(plain)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"custom_depths": "deep"}, "depths 'deep' cannot be read"), ({"ratio": 0.8}, "ratio=0.8 is outside [0, 0.75]")],
)
def test_a_wrong_setting_is_told_and_the_image_comes_dense(host: ComfyUI, wrong: dict[str, Any], words: str) -> None:
    result = host.run(pruned(picture(), **wrong))
    assert image(result) == image(host.run(picture()))
    assert result.report("dato").startswith(words) and result.report("dato").endswith("unaccelerated")


# recipe files


def files(host: ComfyUI, loader: str = "SkipstoneRecipeLoader") -> list[str]:
    info = json.loads(host.get(f"/object_info/{loader}"))[loader]["input"]["required"]["file"]
    return info[0] if isinstance(info[0], list) else info[1]["options"]


def test_a_recipe_is_saved_with_its_mask_and_loaded(host: ComfyUI) -> None:
    made = skipped(pruned(picture(), custom_depths=""))
    mask = node("SkipstoneMaskSaver", model=["model", 0], mask=["rule", 0], steps=4, filename_prefix="dato")
    name = host.run({**made, "save": mask}).report("save").split(": ")[0]
    prompt = patched(pruned(picture(), custom_depths=""), "SkipstoneBlockMask", "mask", mask=["file", 0])
    prompt |= {"file": node("SkipstoneMaskLoader", file=name)}
    prompt |= {"save": node("SkipstoneRecipeSaver", model=["mask", 0], filename_prefix="whole")}
    whole = host.run(prompt)
    file, _, holds = whole.report("save").partition(": ")
    assert holds == "token prune, block skip" and file in files(host)
    loaded = host.run(patched(picture(), "SkipstoneRecipeLoader", "recipe", file=file))
    assert image(loaded) == image(whole)
    assert loaded.report("recipe") == whole.report("mask")


# the workflows


@pytest.mark.parametrize("name", ["sd15_dato", "sdxl_merge_and_cache", "pixart_block_mask"])
def test_the_shipped_workflows_lack_nothing_but_their_models(host: ComfyUI, name: str) -> None:
    rejected = host.run(json.loads((ROOT / f"workflows/api/{name}.json").read_text()))
    errors = [e for n in rejected.detail["node_errors"].values() for e in n["errors"]]
    wanted = {"ckpt_name"} if name.startswith("sd") else {"unet_name", "clip_name", "vae_name"}
    assert {(e["type"], e["extra_info"]["input_name"]) for e in errors} == {("value_not_in_list", w) for w in wanted}
    assert name in json.loads(host.get("/workflow_templates"))["skipstone"]


def test_the_workflows_settings_run(host: ComfyUI) -> None:
    dato = json.loads((ROOT / "workflows/api/sd15_dato.json").read_text())["2"]["inputs"]
    result = host.run(pruned(picture(steps=12), **{k: v for k, v in dato.items() if k != "model"}))
    assert share(result) > 30 and blocks(result)[0] < blocks(result)[1] / 2
    sdxl = json.loads((ROOT / "workflows/api/sdxl_merge_and_cache.json").read_text())
    rule = sdxl["11"]["inputs"]
    both = host.run(skipped(merged(text2img("SDXL")), **rule))
    assert both.report("merge") == both.report("mask") and "blocks in 4 calls" in both.report("mask")
