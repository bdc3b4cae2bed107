"""Skipstone beside the rest of ComfyUI: what other nodes do stays as it is, or the run is plain and says why.

Needs what test_comfyui.py needs.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from hosts.comfy_prompts import node
from hosts.comfyui import OLD, UNCACHED, ComfyUI, Prompt, Result, places
from hosts.test_comfyui import host
from hosts.test_comfyui_windows import FRAMES
from hosts.trust_methods import IDLE, OFF, ON, STEPS, UNET, Case, Change, drawn, ours, picture, rows, said
from hosts.trust_neighbours import NEIGHBOURS
from hosts.trust_ways import WAYS
from safetensors.torch import save_file

__all__ = ["host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

BATCHES = {"context windows": FRAMES, "list of latents": 2, "batch of four": 4}
TAKEN = r"unaccelerated: its (tokens are not|attention takes)"
UNKNOWN = r"StableCascade_C is not supported: .*; (sampling runs unaccelerated|no \w+ \w+ (merged|skipped|pruned))"
ONE_OF_TWO = r"Cache also skips calls of this model: keep one of the two nodes; sampling runs unaccelerated"
REASONS: dict[tuple[str, str], str] = {
    **{(name, "calls"): ONE_OF_TWO for name in ("EasyCache", "LazyCache")},
    **{(name, method): TAKEN for name in ("Tome", "HyperTile") for method in ("parts", "dato")},
    **{("ModelSamplingStableCascade", method): UNKNOWN for method in ("parts", "dato")},
}
"""What is not served, or its tokens are not -> what says so."""
CHANGING = ("CFG override", "LoRA hook with keyframe")
"""Where the rows are not the same at every step, or one that changes has to run."""
DONE = {
    "calls": rf"ran (\d+) of ({STEPS}) calls, forecast [1-9]",
    "parts": r"merged [1-9]\d*% of tokens in \d+ layers.* ran \d+ of \d+ blocks",
    "dato": r"pruned [1-9]\d*% of tokens in \d+ layers",
}


@pytest.fixture(scope="module", autouse=True)
def lora(host: ComfyUI) -> None:
    """A LoRA file for the U-Net, among the server's."""
    folder, generator, tensors = host.base / "models" / "loras", torch.Generator().manual_seed(5), {}
    for block, width in ((1, 32), (3, 64)):
        name = f"diffusion_model.input_blocks.{block}.1.transformer_blocks.0.attn1.to_v"
        tensors[f"{name}.lora_up.weight"] = torch.randn(width, 4, generator=generator) * 0.3
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, width, generator=generator) * 0.3
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "trust.safetensors")


def start(host: ComfyUI, name: str, case: Case) -> tuple[Prompt, Result]:
    """The prompt of a case without its change, and its dense run with it."""
    if json.loads(host.get(f"/object_info/{quote(case.needs)}")) == {}:
        pytest.skip(f"{case.needs} is not in {host.name}")
    prompt = picture(case.kind, batch=BATCHES.get(name, 1))
    dense = alone(host, name, case.change, prompt)
    if host.name in OLD and dense.status != "success":
        pytest.skip(f"{host.name} cannot draw this without us")
    return prompt, dense


_alone: dict[tuple[ComfyUI, str], Result] = {}
_fresh: dict[tuple[ComfyUI, str], str] = {}


def fresh(host: ComfyUI, prompt: Prompt) -> str:
    """The picture of a model that was never patched, once for each kind and batch."""
    own = {name: prompt[name]["inputs"] for name in ("model", "empty")}
    if (host, str(own)) not in _fresh:
        stored = node("ProbeStored", kind=own["model"]["kind"], way="fp32")
        _fresh[host, str(own)] = drawn(host.run({**prompt, "model": stored}))[0]
    return _fresh[host, str(own)]


def alone(host: ComfyUI, name: str, change: Change, prompt: Prompt) -> Result:
    """The dense run with a change, once for each case."""
    if (host, name) not in _alone:
        _alone[host, name] = host.run(change(prompt))
    return _alone[host, name]


def check(name: str, method: str, result: Result, dense: Result, counted: bool = True) -> None:
    """Either the report says what was done, and counts agree with it; or it says why nothing was, and the picture is plain.

    counted: whether the probe counts the network's rows, as it does for the models that it makes itself.
    """
    text, same = said(result, ON[method]), drawn(result) == drawn(dense)
    blocks = [(int(ran), int(of)) for ran, of in re.findall(r"ran (\d+) of (\d+) blocks", text)]
    assert all(ran < of for ran, of in blocks), text
    if reason := REASONS.get((name, method)):
        some = blocks or re.search(
            r"(merged|pruned) \d+% of tokens", text
        )  # in layers that the other node leaves alone
        assert re.search(reason, text) and same == (not some), text
        return
    done = re.findall(DONE[method], text)
    assert done and not same and not re.search(r"unaccelerated: (?!coarser|never entered)", text), text
    if method == "calls" and counted and name not in CHANGING:
        ran, of = (sum(map(int, numbers)) for numbers in zip(*done, strict=True))
        assert [count * of for count in rows(result)] == [count * ran for count in rows(dense)], text


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_off_and_idle_beside_another_node_change_no_bit(host: ComfyUI, name: str) -> None:
    change = NEIGHBOURS[name].change
    prompt, dense = start(host, name, NEIGHBOURS[name])
    for settings in (OFF, IDLE):
        assert drawn(host.run(ours(change(prompt), settings))) == drawn(dense)


@pytest.mark.parametrize("method", ON)
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_beside_another_node(host: ComfyUI, name: str, method: str) -> None:
    change = NEIGHBOURS[name].change
    prompt, dense = start(host, name, NEIGHBOURS[name])
    after, before = (host.run(made) for made in (ours(change(prompt), ON[method]), change(ours(prompt, ON[method]))))
    check(name, method, after, dense)
    assert drawn(after) == drawn(before) and after.texts == before.texts


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_without_both_the_picture_is_that_of_a_fresh_model(host: ComfyUI, name: str) -> None:
    prompt, _ = start(host, name, NEIGHBOURS[name])
    assert drawn(host.run(prompt))[0] == fresh(host, prompt)


@pytest.mark.parametrize("name", WAYS)
def test_off_and_idle_in_another_way_of_sampling_change_no_bit(host: ComfyUI, name: str) -> None:
    change = WAYS[name].change
    prompt, dense = start(host, name, WAYS[name])
    for settings in (OFF, IDLE):
        assert drawn(host.run(change(ours(prompt, settings)))) == drawn(dense)


@pytest.mark.parametrize("method", ON)
@pytest.mark.parametrize("name", WAYS)
def test_in_another_way_of_sampling(host: ComfyUI, name: str, method: str) -> None:
    change = WAYS[name].change
    prompt, dense = start(host, name, WAYS[name])
    check(name, method, host.run(change(ours(prompt, ON[method]))), dense)
    assert drawn(host.run(change(prompt))) == drawn(dense)


def test_muted_deleted_and_bypassed_as_the_page_sends_it(host: ComfyUI) -> None:
    """Bypassed, our node is not in the prompt; muted or deleted, what it fed lacks an input."""
    made = picture()
    first, fast = drawn(host.run(made)), host.run(ours(made, ON["parts"]))
    muted = ours(made, ON["parts"])
    del muted["SkipstoneBlockMask"]
    rejected = host.run(muted)
    assert rejected.status == "rejected" and "sampler" in json.dumps(rejected.detail)
    assert drawn(host.run(ours(made, ON["parts"]))) == drawn(fast) != first
    assert drawn(host.run(made)) == first


@pytest.mark.parametrize("method", ON)
def test_to_another_size_and_back(host: ComfyUI, method: str) -> None:
    def size(height: int, width: int) -> tuple[str, str]:
        made = {**picture(), "one": node("ProbeLatent", kind=UNET, height=height, width=width)}
        return drawn(host.run(ours(made, ON[method])))

    sizes = [(16, 16), (24, 16), (13, 19)]
    there = [size(*one) for one in sizes]
    assert [size(*one) for one in reversed(sizes)] == there[::-1] and len(set(there)) == len(sizes)


def test_a_queue_of_ten_with_changing_models(host: ComfyUI) -> None:
    newer = () if host.name in OLD else ("Flux 2", "Z-Image")
    kinds = (UNET, "Wan 2.1 t2v", "SD3", "HunyuanDiT", "LTX Video", *newer)
    prompts = [ours(picture(kind), ON[method]) for method in ("calls", "parts") for kind in kinds]
    apart = [drawn(host.run(prompt)) for prompt in reversed(prompts)][::-1]
    queued = [host.queue(prompt)["prompt_id"] for prompt in prompts]
    assert [drawn(host.result(one)) for one in queued] == apart and len(set(apart)) == len(apart)


def test_cancel_and_again(host: ComfyUI) -> None:
    """Cancel is pressed from outside, in the middle of a run; of its steps two run the network with call skipping."""
    made = {**picture(), "sampler": {**picture()["sampler"]}}
    made["sampler"]["inputs"] = {**made["sampler"]["inputs"], "steps": 5000}
    again = {method: drawn(host.run(ours(picture(), ON[method]))) for method in ON}
    for method in ON:
        queued = host.queue(ours(made, ON[method]))["prompt_id"]
        while not json.loads(host.get("/queue"))["queue_running"]:
            time.sleep(0.05)
        time.sleep(1.0)
        host.cancel()
        assert host.result(queued).detail[0] == "execution_interrupted"
        assert drawn(host.run(ours(picture(), ON[method]))) == again[method]


FLAGS = ("--fp8_e4m3fn-unet", "--bf16-unet", "--disable-smart-memory", "--force-channels-last")


@pytest.mark.parametrize("flag", FLAGS)
def test_a_server_with_a_flag(host: ComfyUI, flag: str, tmp_path: Path) -> None:
    """The model is loaded from a file, as its type is chosen there. `--lowvram` and `--novram` need a GPU."""
    with ComfyUI(host.folder, tmp_path / "flagged", flags=f"{UNCACHED} {flag}") as flagged:
        made = picture("SD3")
        saved = flagged.run({**made, "save": node("ProbeSave", model=["model", 0])}).outputs["save"]
        loaded = {**made, "model": node("UNETLoader", unet_name=saved, weight_dtype="default")}
        dense = drawn(flagged.run(loaded))
        assert drawn(flagged.run(ours(loaded, IDLE))) == dense
        for method in ON:
            check(flag, method, flagged.run(ours(loaded, ON[method])), flagged.run(loaded), counted=False)
        assert drawn(flagged.run(loaded)) == dense
