"""Mask training in a real ComfyUI. Needs what test_comfyui.py needs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import served
from hosts import test_comfyui_families as families
from hosts.comfy_prompts import image, node, patched
from hosts.comfyui import ROOT, ComfyUI, Prompt, Result, places
from hosts.test_comfyui import host
from hosts.test_comfyui_masks import counts, picture

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

TARGETS = {"SD1.5": 0.5, "PixArt": 0.6, "SD3": 0.8, "Flux": 0.7}
SMALL = {"SD1.5": 64, "PixArt": 320, "SD3": 64, "Flux": 64}


def small(kind: str = "SD1.5", **options: Any) -> Prompt:
    return picture(kind, size=SMALL[kind], **{"steps": 3, "cfg": 3.0, **options})


def training(prompt: Prompt, kind: str = "SD1.5", model: str = "model", **widgets: Any) -> Prompt:
    """With a short training beside the sampler."""
    settings = {
        "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "target": TARGETS.get(kind, 0.6), "passes": 1,
        "samples": 1, "filename_prefix": f"host {kind}",
    }  # fmt: skip
    links = {"model": [model, 0], "positive": ["positive", 0], "negative": ["negative", 0], "latent": ["empty", 0]}
    return {**prompt, "train": node("SkipstoneTrainMask", **links, **{**settings, **widgets})}


def applied(kind: str = "SD1.5", **widgets: Any) -> Prompt:
    """Trained, and sampled with what was learned; the mask is also drawn."""
    prompt = training(patched(small(kind), "SkipstoneBlockMask", "mask", mask=["train", 0]), kind, **widgets)
    return {**prompt, "show": node("PreviewImage", images=["train", 1])}


def shown() -> Prompt:
    """The mask as a picture, without a sampler."""
    return {"show": node("PreviewImage", images=["train", 1])}


def with_positive(conditioning: Prompt, **widgets: Any) -> Prompt:
    """A training on a conditioning of one's own, whose node is called `own`."""
    prompt = {**training(small(**({"steps": widgets["steps"]} if "steps" in widgets else {})), **widgets), **shown()}
    prompt["train"]["inputs"]["positive"] = ["own", 0]
    return {**prompt, **conditioning}


def share(result: Result) -> float:
    """Of the multiply-adds, from the text on the node."""
    found = re.search(r"_\d{5}_.safetensors: (\d+)% of the multiply-adds, \d\.\d\dx$", result.report("train"))
    assert found, result.texts
    return int(found[1]) / 100


@pytest.mark.parametrize("form", ["exchange", "windowed", "interleaved"])
def test_forms_that_take_gradients(host: ComfyUI, form: str) -> None:
    """ComfyUI loads models in inference mode, where none pass."""
    result = host.run(applied(form=form))
    assert counts(result)[2] == 3 and share(result) <= TARGETS["SD1.5"] + 0.02


@pytest.mark.parametrize("form", ["windowed", "interleaved"])
@pytest.mark.parametrize("kind", ["SD3", "Flux"])
def test_gradients_through_blocks_that_write_into_their_inputs(host: ComfyUI, kind: str, form: str) -> None:
    assert share(host.run(applied(kind, form=form))) <= TARGETS[kind] + 0.02


@pytest.mark.parametrize("kind", ["Qwen-Image", "Wan 2.1 t2v", "Z-Image", "Flux 2", "LTX Video"])
def test_a_mask_for_a_network_that_is_known_by_its_stacks_alone(host: ComfyUI, kind: str) -> None:
    """Learned by the node, and applied in the same prompt; the picture without it stays what it was."""
    dense = image(host.run(families.picture(kind)))
    masked = patched(families.picture(kind), "SkipstoneBlockMask", "mask", mask=["train", 0])
    prompt = training(masked, kind, target=0.6, steps=families.STEPS, cfg=5.0)
    result = host.run({**prompt, "show": node("PreviewImage", images=["train", 1])})
    run, of = families.ran(result)
    assert share(result) <= 0.62 and 0 < run < of and image(result) != dense
    assert image(host.run(families.picture(kind))) == dense
    served.check(host.name, kind, "train", served.SERVED)


@pytest.mark.parametrize("form", ["search", "windowed"])
def test_weights_low_in_memory_learn_the_same(host: ComfyUI, form: str) -> None:
    """Where memory is short, weights come to the device layer by layer, and LoRAs are added there."""
    lora = {"lora": node("ProbeLora", model=["model", 0])}
    wanted = host.run({**training(small(), model="lora", form=form, filename_prefix="low"), **shown(), **lora})
    low = {"low": node("ProbeLowVram", model=["lora", 0])}
    result = host.run({**training(small(), model="low", form=form, filename_prefix="low"), **shown(), **lora, **low})
    assert share(result) == share(wanted) <= 0.52
    assert image(result) == image(wanted)


@pytest.mark.parametrize("kind", TARGETS)
def test_a_trained_mask_meets_its_target_and_runs(host: ComfyUI, kind: str) -> None:
    dense = image(host.run(small(kind)))
    result = host.run(applied(kind))
    ran, blocks, calls = counts(result)
    assert image(result) != dense and calls == 3 and ran < blocks
    assert share(result) <= TARGETS[kind] + 0.02
    assert image(host.run(small(kind))) == dense, "weights are what they were"


def test_the_same_seed_learns_the_same(host: ComfyUI) -> None:
    assert image(host.run(applied())) == image(host.run(applied()))


def test_the_file_holds_what_was_learned(host: ComfyUI) -> None:
    result = host.run(applied(filename_prefix="kept"))
    name = result.report("train").split(": ")[0]
    by_file = host.run({**patched(small(), "SkipstoneBlockMask", "mask", mask=["file", 0]),
                        "file": node("SkipstoneMaskLoader", file=name)})  # fmt: skip
    assert image(by_file) == image(result) and counts(by_file) == counts(result)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "lms", "ipndm", "deis", "res_multistep", "uni_pc"])
def test_every_sampler_offered_can_be_trained_for(host: ComfyUI, name: str) -> None:
    result = host.run(applied("SD3", sampler_name=name))
    assert image(result) and share(result) <= TARGETS["SD3"] + 0.02


def test_a_mask_for_uni_pc_is_made_for_the_noise_levels_of_its_runs(host: ComfyUI) -> None:
    """ComfyUI leaves out the last but one of one step more."""
    host.run(applied(sampler_name="uni_pc", filename_prefix="levels"))
    assert [round(t) for t in host.mask("levels_00001_.safetensors").timesteps] == [999, 666, 333]


@pytest.mark.parametrize("name", ["deis", "res_multistep"])
def test_samplers_without_gradients_are_told(host: ComfyUI, name: str) -> None:
    result = host.run(applied("SD3", sampler_name=name, form="windowed"))
    assert result.report("train").startswith(f"the sampler {name} passes no gradients: train with euler")


AREA = {"width": 1.0, "height": 0.5, "x": 0.0, "y": 0.0, "strength": 1.0}
APART = {
    "longer": node("ProbeConditioning", kind="SD1.5", tokens=100, rng=5),
    "area": node("ConditioningSetAreaPercentage", conditioning=["positive", 0], **AREA),
}
"""Conditionings that are not batched with the negative one."""


@pytest.mark.parametrize("form", ["search", "interleaved", "windowed"])
@pytest.mark.parametrize("kind", APART)
def test_conditionings_in_forwards_of_their_own(host: ComfyUI, kind: str, form: str) -> None:
    assert share(host.run(with_positive({"own": APART[kind]}, form=form))) <= 0.52


def test_prompts_that_take_turns(host: ComfyUI) -> None:
    turns = {
        "other": node("ProbeConditioning", kind="SD1.5", tokens=77, rng=5),
        "first": node("ConditioningSetTimestepRange", conditioning=["positive", 0], start=0.0, end=0.4),
        "then": node("ConditioningSetTimestepRange", conditioning=["other", 0], start=0.4, end=1.0),
        "own": node("ConditioningCombine", conditioning_1=["first", 0], conditioning_2=["then", 0]),
    }
    assert share(host.run(with_positive(turns))) <= 0.52
    end = {"own": node("ConditioningSetTimestepRange", conditioning=["positive", 0], start=0.0, end=0.4)}
    assert host.run(with_positive(end)).report("train").startswith("training needs the same conditionings at every")


@pytest.mark.parametrize("form", ["search", "windowed"])
def test_a_controlnet(host: ComfyUI, form: str) -> None:
    """Its weights are in inference mode."""
    prompt = {**training(small(), form=form), **shown(),
        "net": node("ProbeControlNet"),
        "hint": node("EmptyImage", width=64, height=64, batch_size=1, color=8000000),
        "control": node("ControlNetApplyAdvanced", positive=["positive", 0], negative=["negative", 0],
                        control_net=["net", 0], image=["hint", 0], strength=1.0, start_percent=0.0, end_percent=1.0),
    }  # fmt: skip
    prompt["train"]["inputs"] |= {"positive": ["control", 0], "negative": ["control", 1]}
    result = host.run(prompt)
    if form == "search":
        assert share(result) <= 0.52
    else:
        assert result.report("train").startswith("gradients do not pass through a ControlNet or another node's patch")


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_what_comfyui_skips_by_itself_is_left_out(host: ComfyUI, name: str) -> None:
    cache = node(name, model=["model", 0], reuse_threshold=0.2, start_percent=0.1, end_percent=0.95, verbose=False)
    result = host.run({**training(small(), model="cache", filename_prefix="cache"), **shown(), "cache": cache})
    wanted = host.run({**training(small(), filename_prefix="cache"), **shown()})
    assert result.status == wanted.status == "success"
    one, other = (host.mask(f"cache_0000{n}_.safetensors").run for n in newest_two(host))
    assert (one == other).all()


def newest_two(host: ComfyUI) -> list[int]:
    """Numbers of the last two masks of this name."""
    last = max(int(p.name.split("_")[1]) for p in host.masks.glob("cache_*"))
    return [last - 1, last]


def test_an_error_in_the_network_leaves_the_model_as_it_was(host: ComfyUI) -> None:
    """A conditioning of another kind of model."""
    dense = image(host.run(small()))
    for form in ("search", "windowed"):
        result = host.run(with_positive({"own": node("ProbeConditioning", kind="SDXL", tokens=77, rng=1)}, form=form))
        assert result.status == "error" and "cannot be multiplied" in result.detail[1]["exception_message"]
        assert image(host.run(small())) == dense


def test_two_prompts_a_lora_and_no_guidance(host: ComfyUI) -> None:
    prompt = training(patched(small(), "ProbeLora", "lora"), model="lora", cfg=1.0, filename_prefix="two")
    prompt |= {
        "other": node("ProbeConditioning", kind="SD1.5", tokens=77, rng=5),
        "both": node("ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["other", 0]),
        "show": node("PreviewImage", images=["train", 1]),
    }
    prompt["train"]["inputs"]["positive"] = ["both", 0]
    result = host.run(prompt)
    assert image(result) == image(host.run(patched(small(), "ProbeLora", "lora")))
    assert 0.3 < share(result) <= 0.52


@pytest.mark.parametrize(("form", "call"), [("search", 300), ("search", 303), ("windowed", 330), ("interleaved", 330)])
def test_cancel_keeps_what_was_learned(host: ComfyUI, form: str, call: int) -> None:
    """The button is pressed in some pass, or at its end; the prompt ends, and the file is there."""
    dense = image(host.run(small()))
    prompt = training(small(), model="press", passes=50, form=form, filename_prefix=f"cancelled {form} {call}")
    prompt |= {"press": node("ProbeInterrupt", model=["model", 0], call=call)}
    prompt |= {"show": node("PreviewImage", images=["train", 1])}
    del prompt["sampler"], prompt["digest"], prompt["leftovers"]
    cancelled = host.run(prompt)
    assert cancelled.status == "error" and cancelled.detail[0] == "execution_interrupted"
    found = re.match(r"stopped after (\d+) passes; cancelled \w+ \d+_00001_.safetensors: ", cancelled.report("train"))
    assert found and 0 < int(found[1]) < 50, cancelled.texts
    assert image(host.run(small())) == dense
    by_file = host.run({**patched(small(), "SkipstoneBlockMask", "mask", mask=["file", 0]),
                        "file": node("SkipstoneMaskLoader", file=f"cancelled {form} {call}_00001_.safetensors")})  # fmt: skip
    assert counts(by_file)[2] == 3
    assert share(host.run(applied(form=form))) <= 0.52


def test_cancel_in_the_first_pass_keeps_nothing(host: ComfyUI) -> None:
    prompt = training(small(), model="press", form="exchange", filename_prefix="nothing")
    prompt |= {"press": node("ProbeInterrupt", model=["model", 0], call=60), **shown()}
    assert host.run(prompt).detail[0] == "execution_interrupted"
    assert not list(host.masks.glob("nothing*"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": 0.05}, "the target is out of reach"),
        ({"filename_prefix": "../../x"}, "filename_prefix '../../x' leads out"),
    ],
    ids=["target", "prefix"],
)
def test_what_cannot_be_trained_is_told_and_the_image_comes_dense(
    host: ComfyUI, wrong: dict[str, Any], words: str
) -> None:
    result = host.run(applied(**wrong))
    assert image(result) == image(host.run(small()))
    assert result.report("train").startswith(words) and result.report("mask").startswith("no mask came in")


def test_an_unsupported_model_is_told(host: ComfyUI) -> None:
    prompt = training(picture("Wan"), "SD1.5")
    prompt |= {"show": node("PreviewImage", images=["train", 1])}
    assert host.run(prompt).report("train").startswith("WAN21 is not supported: Skipstone works on SD1.x")


def test_the_shipped_workflow_lacks_nothing_but_its_checkpoint(host: ComfyUI) -> None:
    rejected = host.run(json.loads((ROOT / "workflows/api/train_and_apply_mask.json").read_text()))
    errors = [e for n in rejected.detail["node_errors"].values() for e in n["errors"]]
    assert {(e["type"], e["extra_info"]["input_name"]) for e in errors} == {("value_not_in_list", "ckpt_name")}
    assert "train_and_apply_mask" in json.loads(host.get("/workflow_templates"))["skipstone"]
