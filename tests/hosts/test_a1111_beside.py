"""What the web UI and other extensions do beside Skipstone, in a real AUTOMATIC1111. What it needs is said in `test_a1111.py`."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
import urllib.error
from collections.abc import Iterator
from os import environ
from typing import Any

import pytest
import torch
from hosts.webui import Picture, WebUI, pixels, place
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(place() is None, reason="needs a real AUTOMATIC1111 web UI: set WEBUI_PATH")

STEPS = 12
BASE: dict[str, Any] = {
    "prompt": "a cat",
    "seed": 1,
    "steps": STEPS,
    "width": 128,
    "height": 128,
    "sampler_name": "Euler",
}
TWICE: dict[str, Any] = {"enabled": True, "threshold": 1.0, "calls_speedup": 2.0}
ALL: dict[str, Any] = {"enabled": True, "threshold": 0.5, "rule": "deepcache", "every": 2, "calls_speedup": 1.5}

NESTED = '''
from modules import scripts, processing

class Nested(scripts.Script):
    """Replaces each picture by one of a job of its own before it is returned, as face detailers do in part."""
    def title(self): return "nested"
    def show(self, is_img2img): return scripts.AlwaysVisible
    def ui(self, is_img2img):
        import gradio as gr
        return [gr.Checkbox(False, label="nested", visible=False)]
    def postprocess_image(self, p, pp, nested):
        if not nested or getattr(p, "is_nested", False): return
        inner = processing.StableDiffusionProcessingTxt2Img(
            sd_model=p.sd_model, prompt="a face", seed=7, steps=12, width=p.width, height=p.height, sampler_name="Euler",
            do_not_save_samples=True, do_not_save_grid=True)
        inner.scripts_setup_complete = True  # else the page's own seed and steps replace these
        inner.scripts, inner.script_args = p.scripts, p.script_args
        inner.is_nested = True
        done = processing.process_images(inner)
        pp.image = done.images[0]
        for key in ("Skipstone calls run", "Skipstone refused"):
            if key in done.extra_generation_params:
                p.extra_generation_params[f"Nested {key}"] = done.extra_generation_params[key]
'''
RELOADER = """
from modules import script_callbacks, shared

def add(_, app):
    app.add_api_route("/reload-ui", lambda: shared.state.request_restart() or {}, methods=["POST"])

script_callbacks.on_app_started(add)
"""


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI with Skipstone, a counter of the U-Net's passes, and the two scripts."""
    folder = place()
    assert folder is not None
    more = {"nested": NESTED, "reloader": RELOADER}
    with WebUI(folder, tmp_path_factory.mktemp("beside"), skipstone=True, counts=True, scripts=more) as server:
        yield server


def figure(infotext: str, key: str) -> str:
    """The figures of a key of the infotext; empty without it."""
    found = re.search(rf"{key}: ([^,\n]*)", infotext)
    return found[1] if found else ""


def image(png: bytes) -> str:
    """For a request."""
    return base64.b64encode(png).decode()


def changed_and_back(webui: WebUI, request: dict[str, Any], args: dict[str, Any] = ALL) -> Picture:
    """The accelerated picture, which differs from that without Skipstone; that one is the same before and after."""
    before = webui.generate(request, False)
    on = webui.generate(request, args)
    assert pixels(on.pngs) != pixels(before.pngs) and pixels(webui.generate(request, False).pngs) == pixels(before.pngs)
    assert "Skipstone refused" not in on.infotext
    return on


def test_inpainting(webui: WebUI) -> None:
    half = Image.new("L", (128, 128))
    half.paste(255, (0, 0, 64, 128))
    half.save(file := io.BytesIO(), "PNG")
    first = webui.generate(BASE, False).pngs[0]
    masked = {"init_images": [image(first)], "mask": image(file.getvalue()), "inpainting_fill": 1, "mask_blur": 0}
    on = changed_and_back(webui, {**BASE, **masked, "steps": 20, "denoising_strength": 0.9, "inpaint_full_res": False})
    assert figure(on.infotext, "Skipstone calls run") and figure(on.infotext, "Skipstone merged")


@pytest.mark.parametrize(
    "prompt", ["a cat AND a dog :0.8", "a cat AND " + ", ".join(["a dog"] * 60)], ids=["equal", "unequal"]
)
def test_and_prompts(webui: WebUI, prompt: str) -> None:
    on = changed_and_back(webui, {**BASE, "prompt": prompt})
    assert figure(on.infotext, "Skipstone calls run") == "67%" and figure(on.infotext, "Skipstone merged")


def test_unconds_that_come_in_mid_run(webui: WebUI) -> None:
    with webui.options(skip_early_cond=0.4):
        on = changed_and_back(webui, BASE)
    assert "Skip Early CFG" in on.infotext and figure(on.infotext, "Skipstone calls run")


def test_a_lora(webui: WebUI) -> None:
    checkpoint = webui.models / "Stable-diffusion" / environ.get("WEBUI_CHECKPOINT", "")
    name = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    with safe_open(checkpoint, "pt") as file:
        rows, columns = file.get_tensor(f"model.diffusion_model.{name}.weight").shape
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    random = torch.Generator().manual_seed(0)
    tensors = {
        f"{key}.lora_up.weight": torch.randn(rows, 2, generator=random),
        f"{key}.lora_down.weight": torch.randn(2, columns, generator=random),
        f"{key}.alpha": torch.tensor(2.0),
    }
    folder = webui.models / "Lora"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "skipstone_test.safetensors")
    try:
        webui.post("/sdapi/v1/refresh-loras", {})
        with_it = {**BASE, "prompt": "a cat <lora:skipstone_test:2>"}
        on = changed_and_back(webui, with_it)
        assert figure(on.infotext, "Skipstone merged") and figure(on.infotext, "Passes") == "4", "8 calls"
        assert pixels(webui.generate(with_it, False).pngs) != pixels(webui.generate(BASE, False).pngs)
    finally:
        (folder / "skipstone_test.safetensors").unlink()


def test_a_job_within_a_job(webui: WebUI) -> None:
    def draw(args: Any, call: int = 0) -> Picture:
        scripts = {"nested": {"args": [True]}, "skipstone": {"args": [args]}, "raiser": {"args": [call]}}
        return webui.request({**BASE, "alwayson_scripts": scripts})

    off = draw(False)
    on = draw(TWICE)
    assert figure(on.infotext, "Skipstone calls run") == "50%"
    assert figure(on.infotext, "Nested Skipstone calls run") and "Nested Skipstone refused" not in on.infotext
    assert pixels(draw(False).pngs) == pixels(off.pngs) != pixels(on.pngs)
    with pytest.raises(urllib.error.HTTPError):
        draw(TWICE, call=9)
    assert pixels(draw(False).pngs) == pixels(off.pngs)


def test_skip_in_mid_run(webui: WebUI) -> None:
    before, done = webui.generate(BASE, False), list[Picture]()
    job = threading.Thread(target=lambda: done.append(webui.generate({**BASE, "steps": 150, "n_iter": 2}, ALL)))
    job.start()
    while webui.get("/sdapi/v1/progress?skip_current_image=true")["state"]["sampling_step"] < 20:
        time.sleep(0.1)
    webui.post("/sdapi/v1/skip", {})
    job.join()
    assert figure(done[0].infotext, "Skipstone merged") and "Skipstone refused" not in done[0].infotext
    assert pixels(webui.generate(BASE, False).pngs) == pixels(before.pngs)


def test_text_to_image_and_image_to_image_in_turn(webui: WebUI) -> None:
    text, first = webui.generate(BASE, TWICE), webui.generate(BASE, False)
    picture = {**BASE, "init_images": [image(first.pngs[0])], "steps": 20, "denoising_strength": 0.7}
    from_picture = webui.generate(picture, ALL)
    for _ in range(2):
        assert pixels(webui.generate(BASE, TWICE).pngs) == pixels(text.pngs)
        assert pixels(webui.generate(picture, ALL).pngs) == pixels(from_picture.pngs)
        assert pixels(webui.generate(BASE, False).pngs) == pixels(first.pngs)


def test_reload_ui(webui: WebUI) -> None:
    off, on = webui.generate(BASE, False), webui.generate(BASE, TWICE)
    started = webui.log().count("Startup time:")
    webui.post("/reload-ui", {})
    deadline = time.monotonic() + 300
    while webui.log().count("Startup time:") == started and time.monotonic() < deadline:
        time.sleep(0.5)
    assert pixels(webui.generate(BASE, TWICE).pngs) == pixels(on.pngs)
    again = webui.generate(BASE, False)
    assert pixels(again.pngs) == pixels(off.pngs) and figure(again.infotext, "Passes") == str(STEPS)
    (grid,) = [s for s in webui.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"]]
    axes = [name for arg in grid["args"] if arg["label"] == "X type" for name in arg["choices"]]
    assert len([name for name in axes if name == "[Skipstone] Threshold"]) == 1


def test_the_settings_page(webui: WebUI) -> None:
    with webui.options(skipstone_results=False, skipstone_console=False):
        lines = webui.log().count("Skipstone: ")
        quiet = webui.generate(BASE, TWICE)
    assert "Skipstone calls run" not in quiet.infotext and webui.log().count("Skipstone: ") == lines
    webui.generate(BASE, TWICE)
    assert webui.log().count("Skipstone: 6 of 12 calls run, 2.0x less work.") > 0
    with webui.options(skipstone_cache=1):
        tight = webui.generate(BASE, {"enabled": True, "threshold": 1, "rule": "deepcache", "every": 2})
    assert tight.pngs
