"""The script in a real AUTOMATIC1111 web UI.

Needs `WEBUI_PATH`, the web UI's folder with at least one SD1 checkpoint. Optional: `WEBUI_PYTHON` (its interpreter, by
default venv/bin/python), `WEBUI_CHECKPOINT`, `WEBUI_REFINER` (a second checkpoint), `WEBUI_ARGS` (flags for a GPU).
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import threading
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import asdict, replace
from os import environ
from typing import Any

import numpy as np
import pytest
from hosts.webui import ROOT, WebUI, pixels, place
from safetensors import safe_open

from skipstone.a1111_extension.settings import PanelSettings
from skipstone.core.recipe.mask import Mask

pytestmark = pytest.mark.skipif(place() is None, reason="needs a real AUTOMATIC1111 web UI: set WEBUI_PATH")

SAMPLERS = ("Euler a", "DPM++ 2M", "DPM++ SDE", "Heun", "UniPC", "PLMS", "DDIM", "Restart")
BASE = {"prompt": "a photo of a cat", "seed": 1, "steps": 5, "width": 128, "height": 128, "sampler_name": "Euler"}
HIRES = {
    "enable_hr": True,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 3,
}
REQUESTS: dict[str, dict[str, Any]] = {
    **{name: {**BASE, "sampler_name": name} for name in SAMPLERS},
    "hires": {**BASE, **HIRES},
    "batch of 2": {**BASE, "batch_size": 2},
    "two batches": {**BASE, "n_iter": 2},
    "unequal prompts": {**BASE, "prompt": ", ".join(["a cat"] * 60)},
}
ON = (True, 0.5)


def args_of(**values: Any) -> tuple[Any, ...]:
    """Skipstone's arguments for a panel that is on."""
    return tuple(asdict(PanelSettings(enabled=True, **values)).values())


RULE = args_of(threshold=1, rule="deepcache", every=2)
BOTH = args_of(threshold=0.5, rule="deepcache", every=2)
DATO = args_of(threshold=1, dato="custom", ratio=0.4, dato_depths="12 1 1 0")


@pytest.fixture(scope="module")
def never_installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """All requests in a web UI that has no Skipstone, PNG files with metadata."""
    folder = place()
    assert folder is not None
    with WebUI(folder, tmp_path_factory.mktemp("plain"), skipstone=False) as plain:
        pictures = {name: plain.generate(request).pngs for name, request in REQUESTS.items()}
        REQUESTS["img2img"] = img2img(pictures["Euler a"][0])
        return pictures | {"img2img": plain.generate(REQUESTS["img2img"]).pngs}


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory, never_installed: Any) -> Iterator[WebUI]:
    """A web UI with Skipstone."""
    folder = place()
    assert folder is not None
    with WebUI(folder, tmp_path_factory.mktemp("skipstone"), skipstone=True) as server:
        yield server


def img2img(png: bytes) -> dict[str, Any]:
    return {**BASE, "init_images": [base64.b64encode(png).decode()], "steps": 8, "denoising_strength": 0.5}


def merged(infotext: str, key: str = "merged") -> list[int]:
    """The figures of "Skipstone merged" or another key, in percent; empty without the key."""
    found = re.search(rf"Skipstone {key}: ([^,]*)", infotext)
    return [int(figure.rstrip("%")) for figure in found[1].split(" / ")] if found else []


@pytest.mark.parametrize("name", [*REQUESTS, "img2img"])
def test_off_on_off_and_never_installed(webui: WebUI, never_installed: dict[str, list[bytes]], name: str) -> None:
    request = REQUESTS[name]
    assert webui.generate(request).pngs == never_installed[name]
    on = webui.generate(request, *ON)
    figures = merged(on.infotext)
    assert len(figures) == (2 if name == "hires" else 1) and min(figures) > 0
    assert all(a != b for a, b in zip(on.pngs[-2:], never_installed[name][-2:], strict=True))
    assert webui.generate(request, False).pngs == never_installed[name]


def blocks_run(infotext: str) -> list[int]:
    """The figures of "Skipstone blocks run", in percent."""
    return merged(infotext, "blocks run")


@pytest.mark.parametrize(
    "name", ["Euler a", "Heun", "hires", "batch of 2", "two batches", "unequal prompts", "img2img"]
)
def test_a_block_rule(webui: WebUI, never_installed: dict[str, list[bytes]], name: str) -> None:
    request = REQUESTS[name]
    on = webui.generate(request, *RULE)
    figures = blocks_run(on.infotext)
    assert len(figures) == (2 if name == "hires" else 1) and all(50 < share < 90 for share in figures)
    assert merged(on.infotext) == []
    assert all(a != b for a, b in zip(on.pngs[-2:], never_installed[name][-2:], strict=True))
    assert webui.generate(request, *RULE).pngs == on.pngs
    assert webui.generate(request, False).pngs == never_installed[name]


@pytest.mark.parametrize(
    "name", ["Euler a", "DPM++ SDE", "Heun", "PLMS", "hires", "batch of 2", "unequal prompts", "img2img"]
)
def test_dato(webui: WebUI, never_installed: dict[str, list[bytes]], name: str) -> None:
    request = REQUESTS[name]
    on = webui.generate(request, *DATO)
    pruned, ran = merged(on.infotext, "pruned"), blocks_run(on.infotext)
    assert len(pruned) == len(ran) == (2 if name == "hires" else 1)
    assert all(35 <= share <= 40 for share in pruned) and all(share < 100 for share in ran)
    assert merged(on.infotext) == [] and "Skipstone dato: custom" in on.infotext
    assert all(a != b for a, b in zip(on.pngs[-2:], never_installed[name][-2:], strict=True))
    assert webui.generate(request, *DATO).pngs == on.pngs
    assert webui.generate(request, False).pngs == never_installed[name]


def test_dato_with_conds_in_calls_of_their_own(webui: WebUI) -> None:
    together = webui.generate(REQUESTS["DDIM"], *DATO)
    with webui.options(batch_cond_uncond=False):
        apart = webui.generate(REQUESTS["DDIM"], *DATO)
    assert merged(apart.infotext, "pruned") == merged(together.infotext, "pruned")
    assert blocks_run(apart.infotext) == blocks_run(together.infotext)


def test_merging_what_dato_prunes_is_told(webui: WebUI, never_installed: dict[str, list[bytes]]) -> None:
    picture = webui.generate(REQUESTS["DDIM"], *args_of(dato="dato_coco"))
    assert pixels(picture.pngs) == pixels(never_installed["DDIM"])
    assert "did nothing: threshold=0.7 merges tokens that dato='dato_coco' prunes" in picture.infotext


def test_merging_and_a_mask_file_together(webui: WebUI, never_installed: dict[str, list[bytes]]) -> None:
    file = webui.models / "skipstone_masks" / "half.safetensors"
    file.parent.mkdir(exist_ok=True)
    mask = half_mask(webui)
    mask.save(file)
    settings = {"rule": "mask", "mask": file.name}
    alone = webui.generate(REQUESTS["DDIM"], *args_of(threshold=1, **settings))
    both = webui.generate(REQUESTS["DDIM"], *args_of(threshold=0.5, **settings))
    assert 0 < blocks_run(alone.infotext)[0] < 100 and blocks_run(both.infotext) == blocks_run(alone.infotext)
    assert merged(both.infotext)[0] > 0
    assert len({*pixels(alone.pngs + both.pngs + never_installed["DDIM"])}) == 3
    replace(mask, family="DiT").save(file)
    wrong = webui.generate(REQUESTS["DDIM"], *args_of(threshold=1, **settings))
    assert pixels(wrong.pngs) == pixels(never_installed["DDIM"])
    assert 'Skipstone refused: "did nothing: the mask is for a DiT, this model is a ldm U-Net' in wrong.infotext
    merges = webui.generate(REQUESTS["DDIM"], *args_of(threshold=0.5, **settings))
    assert pixels(merges.pngs) == pixels(webui.generate(REQUESTS["DDIM"], *args_of(threshold=0.5)).pngs)
    assert 'Skipstone refused: "skipped no blocks: the mask is for a DiT' in merges.infotext and merged(merges.infotext)


def half_mask(webui: WebUI) -> Mask:
    """A mask for the loaded checkpoint: after the first of 6 calls only the first half of the blocks runs."""
    root, marks = "model.diffusion_model.", (".in_layers.0.weight", ".proj_in.weight")
    with safe_open(webui.get("/sdapi/v1/sd-models")[0]["filename"], framework="np") as checkpoint:
        keys = [key.removeprefix(root) for key in checkpoint.keys() if key.startswith(root)]
    found = [key.removesuffix(mark) for key in keys for mark in marks if key.endswith(mark)]
    parts = ("input_blocks", "middle_block", "output_blocks")
    blocks = sorted(found, key=lambda name: (parts.index(name.split(".")[0]), *map(int, name.split(".")[1:])))
    run = np.ones((6, len(blocks)), dtype=bool)
    run[1:, len(blocks) // 2 :] = False
    return Mask(run, "ldm U-Net", tuple(blocks), tuple(np.linspace(999, 0, 6)))


@pytest.mark.parametrize(("passes", "hires"), [("first pass only", False), ("hires pass only", True)])
def test_the_hires_switch(webui: WebUI, passes: str, hires: bool) -> None:
    one = webui.generate(REQUESTS["hires"], *ON, "config_3", "", passes)
    both = webui.generate(REQUESTS["hires"], *ON)
    assert len(merged(one.infotext)) == 1 and len(merged(both.infotext)) == 2
    assert hires == (merged(one.infotext) != merged(both.infotext)[:1])
    assert f"Skipstone {'first' if hires else 'hires'} pass: off" in one.infotext


def test_conds_in_calls_of_their_own(webui: WebUI) -> None:
    together = webui.generate(REQUESTS["Heun"], *ON)
    with webui.options(batch_cond_uncond=False):
        apart = webui.generate(REQUESTS["Heun"], *ON)
    assert merged(apart.infotext) == merged(together.infotext)


@pytest.mark.parametrize("every_step", [False, True])
def test_unconds_dropped_in_mid_run(webui: WebUI, every_step: bool) -> None:
    with webui.options(s_min_uncond=3.0, s_min_uncond_all=every_step):
        picture = webui.generate(REQUESTS["Euler a"], *BOTH)
    assert "NGMS" in picture.infotext and min(merged(picture.infotext)) > 0
    assert blocks_run(picture.infotext)[0] < 100


def test_an_exception_in_the_unet(webui: WebUI, never_installed: dict[str, list[bytes]]) -> None:
    with pytest.raises(urllib.error.HTTPError):
        webui.generate(REQUESTS["Euler a"], *BOTH, call=3)
    assert "raised on purpose" in webui.log()
    assert webui.generate(REQUESTS["Euler a"]).pngs == never_installed["Euler a"]
    assert min(merged(webui.generate(REQUESTS["Euler a"], *ON).infotext)) > 0


@pytest.mark.parametrize(("args", "key"), [(BOTH, "merged"), (DATO, "pruned")], ids=["merge and skip", "dato"])
def test_an_interrupt(webui: WebUI, never_installed: dict[str, list[bytes]], args: tuple[Any, ...], key: str) -> None:
    done: list[Any] = []
    job = threading.Thread(target=lambda: done.append(webui.generate({**BASE, "steps": 150}, *args)))
    job.start()
    while webui.get("/sdapi/v1/progress?skip_current_image=true")["state"]["sampling_step"] < 60:
        time.sleep(0.2)
    webui.post("/sdapi/v1/interrupt", {})
    job.join()
    assert min(merged(done[0].infotext, key)) > 0 and blocks_run(done[0].infotext)[0] < 100
    assert webui.generate(REQUESTS["Euler a"]).pngs == never_installed["Euler a"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((True, 7), "threshold=7.0 is outside [-1, 1]"),
        (({"enabled": True, "every": 2.5},), "every=2.5 must be a whole number"),
        (({"enable": True},), "'enable' is no argument of Skipstone"),
        ((["false"],), "enabled=['false'] must be true or false"),
    ],
    ids=str,
)
def test_a_bad_value_is_told_and_the_picture_dense(
    webui: WebUI, never_installed: dict[str, list[bytes]], args: tuple[Any, ...], says: str
) -> None:
    picture = webui.generate(REQUESTS["DDIM"], *args)
    assert pixels(picture.pngs) == pixels(never_installed["DDIM"])
    assert f"Skipstone did nothing: {says}" in webui.log() and "Skipstone refused: " in picture.infotext
    assert picture.info["extra_generation_params"]["Skipstone refused"].startswith(f"did nothing: {says}")


def test_the_request_in_the_user_guide(webui: WebUI) -> None:
    guide = (ROOT / "docs" / "user_guide.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^curl .*?^}'$", guide, re.DOTALL | re.MULTILINE)
    here = command.replace(":7860", f":{webui.port}").replace(": 512", ": 128")
    answer = json.loads(subprocess.run(here, shell=True, check=True, capture_output=True).stdout)
    done = json.loads(answer["info"])["extra_generation_params"]
    assert done["Skipstone calls run"] == "55%" and "Skipstone refused" not in done


@pytest.mark.parametrize("off", ["false", False, {"enabled": False}], ids=str)
def test_off_is_off_however_it_is_said(webui: WebUI, never_installed: dict[str, list[bytes]], off: Any) -> None:
    assert webui.generate(REQUESTS["DDIM"], off).pngs == never_installed["DDIM"]


def test_arguments_by_name_are_those_by_place(webui: WebUI) -> None:
    by_name = webui.generate(BASE, {"enabled": True, "threshold": 1, "rule": "deepcache", "every": 2.0})
    assert by_name.pngs == webui.generate(BASE, *RULE).pngs and blocks_run(by_name.infotext)[0] < 100


def test_a_window_changes_the_picture_of_a_block_rule(webui: WebUI) -> None:
    found = [
        webui.generate(BASE, *args_of(threshold=1, rule="deepcache", every=2, start=start, end=end))
        for start, end in ((0, 1), (0.5, 1), (0, 0.5))
    ]
    assert len({*pixels([picture.pngs[0] for picture in found])}) == 3
    assert blocks_run(found[0].infotext) < min(blocks_run(picture.infotext) for picture in found[1:])
    assert "Skipstone start: 0.5" in found[1].infotext and "Skipstone end: 0.5" in found[2].infotext


def test_a_refused_pass_is_not_claimed(webui: WebUI) -> None:
    with webui.options(hypertile_enable_unet_secondpass=True):
        infotext = webui.generate(REQUESTS["hires"], *BOTH).infotext
    first, second = merged(infotext)
    assert first > second == 0 and max(blocks_run(infotext)) < 100
    assert 'Skipstone refused: "merged no tokens in the hires pass: Hypertile' in infotext
    only = webui.generate(BASE, *args_of(passes="hires pass only")).infotext
    assert "Skipstone refused: " in only and merged(only) == []


@pytest.mark.parametrize(("every", "same"), [("abc", False), ("2.5", False), ("9" * 5000, False), ("2.0", True)])
def test_infotext_that_cannot_run_makes_an_unaccelerated_picture(
    webui: WebUI, never_installed: dict[str, list[bytes]], every: str, same: bool
) -> None:
    infotext = webui.generate(REQUESTS["DDIM"], *RULE).infotext
    assert "Skipstone every: 2," in infotext
    changed = webui.generate({"infotext": infotext.replace("every: 2,", f"every: {every},")})
    assert (blocks_run(changed.infotext) != []) == same
    assert (pixels(changed.pngs) == pixels(never_installed["DDIM"])) != same


@pytest.mark.parametrize("results", [True, False], ids=["with results", "settings alone"])
@pytest.mark.parametrize(
    "settings",
    [{"level": "Fast", "start": 0.2}, {"threshold": 0.5, "calls_speedup": 1.5, "calls_rule": "growing"}],
    ids=str,
)
def test_infotext_of_either_detail_makes_the_same_picture_with_the_same_infotext(
    webui: WebUI, results: bool, settings: dict[str, Any]
) -> None:
    request = {**BASE, "steps": 12}
    with webui.options(skipstone_results=results):
        first = webui.generate(request, {"enabled": True, **settings})
        again = webui.generate({"infotext": first.infotext})
    assert ("Skipstone calls run: " in first.infotext) == results and "Skipstone refused" not in first.infotext
    assert again.pngs == first.pngs and again.infotext == first.infotext


def test_infotext_makes_the_same_picture_again(webui: WebUI) -> None:
    rule = {"rule": "depths", "depths": "0, 12, 1, 1", "last_full": True, "forecast": True, "memory_budget": 64}
    args = args_of(threshold=0.4, checkpoints="custom", custom="0, 20, 40", matching="local", **rule)
    first = webui.generate(REQUESTS["DDIM"], *args)
    assert "Skipstone checkpoints: 0 20 40" in first.infotext and "Skipstone matching: local" in first.infotext
    assert 'Skipstone depths: "0, 12, 1, 1", Skipstone last full: True' in first.infotext
    assert "Skipstone memory budget: 64, Skipstone forecast: True" in first.infotext
    assert webui.generate({"infotext": first.infotext}).pngs == first.pngs


def test_infotext_of_dato_makes_the_same_picture_again(webui: WebUI) -> None:
    own = {"dato_depths": "12, 1, 1, 0", "ratios": "0.5, 0.25, 0", "recover_from": "kept"}
    for values in ({"dato": "dato_c", "ratio": 0.3}, {"dato": "custom", **own}):
        first = webui.generate(REQUESTS["DDIM"], *args_of(threshold=1, **values))
        assert f"Skipstone dato: {values['dato']}" in first.infotext and merged(first.infotext, "pruned")[0] > 0
        assert webui.generate({"infotext": first.infotext}).pngs == first.pngs


@pytest.mark.parametrize("option", [{"token_merging_ratio": 0.5}, {"hypertile_enable_unet": True}], ids=str)
def test_another_patch_of_the_attention_goes_first(webui: WebUI, option: dict[str, Any]) -> None:
    with webui.options(**option):
        with_it = webui.generate(REQUESTS["Euler a"])
        both = webui.generate(REQUESTS["Euler a"], *ON)
        skipped = webui.generate(REQUESTS["Euler a"], *BOTH)
    assert pixels(both.pngs) == pixels(with_it.pngs) != pixels(skipped.pngs)
    assert merged(both.infotext) == merged(skipped.infotext) == []
    assert blocks_run(skipped.infotext)[0] < 100


@pytest.mark.skipif(not environ.get("WEBUI_REFINER"), reason="needs a second checkpoint: set WEBUI_REFINER")
def test_a_refiner(webui: WebUI) -> None:
    refined = {**BASE, "refiner_checkpoint": environ.get("WEBUI_REFINER"), "refiner_switch_at": 0.5}
    dense = webui.generate(refined)
    infotext = webui.generate(refined, *BOTH).infotext
    assert len(merged(infotext)) == len(blocks_run(infotext)) == 2
    assert len(merged(webui.generate(refined, *DATO).infotext, "pruned")) == 2
    assert webui.generate(refined).pngs == dense.pngs


@pytest.mark.parametrize(
    ("name", "values", "args"),
    [
        ("Threshold", "0.5, 1", ON),
        ("Block rule every", "2, 1", RULE),
        ("DaTo", "dato_coco, off", args_of(threshold=1, dato="dato_coco")),
    ],
    ids=["merge", "skip", "dato"],
)
def test_an_xyz_grid(webui: WebUI, name: str, values: str, args: tuple[Any, ...]) -> None:
    (grid,) = [s for s in webui.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"]]
    axes = next(arg["choices"] for arg in grid["args"] if arg["label"] == "X type")
    axis = [axes.index(f"[Skipstone] {name}"), values, values.split(", ")]
    no_axes, lone_images = [0, "", []] * 2, [False, True, False, False, False, False, False, 0, False]
    pictures = webui.generate(BASE, script_name="x/y/z plot", script_args=[*axis, *no_axes, *lone_images])
    served, dense = webui.generate(BASE, *args), webui.generate(BASE)
    assert pixels(pictures.pngs)[-2:] == pixels(served.pngs + dense.pngs)
