"""Call skipping in a real AUTOMATIC1111 web UI. What it needs is said in `test_a1111.py`."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hosts.webui import WebUI, place
from PIL import Image

from skipstone.core.forecast.profile import Profile

pytestmark = pytest.mark.skipif(place() is None, reason="needs a real AUTOMATIC1111 web UI: set WEBUI_PATH")

STEPS = 12
BASE = {"prompt": "a cat", "seed": 1, "steps": STEPS, "width": 128, "height": 128, "sampler_name": "Euler"}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
TWICE = {"enabled": True, "threshold": 1.0, "calls_speedup": 2.0}


@pytest.fixture(scope="module")
def webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI with Skipstone and a counter of the U-Net's passes."""
    folder = place()
    assert folder is not None
    with WebUI(folder, tmp_path_factory.mktemp("skipstone"), skipstone=True, counts=True) as server:
        yield server


def figures(infotext: str, key: str) -> list[str]:
    """The figures of a key of the infotext, one per pass; empty without the key."""
    found = re.search(rf"{key}: ([^,\n]*)", infotext)
    return found[1].split(" / ") if found else []


def psnr(one: bytes, other: bytes) -> float:
    """In dB."""
    first, second = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float) for png in (one, other))
    return float(10 * np.log10(255**2 / max(1e-9, ((first - second) ** 2).mean())))


@pytest.mark.parametrize(
    ("request_", "dense", "on"),
    [
        ({}, ["12"], ["6"]),
        ({"sampler_name": "DDIM"}, ["12"], ["6"]),
        ({"sampler_name": "Heun"}, ["23"], ["13"]),  # a noise level's second evaluations have values of their own
        ({"batch_size": 2}, ["12"], ["6"]),
        ({"n_iter": 2}, ["12"], ["6"]),
        ({**HIRES, "hr_second_pass_steps": 10}, ["12", "10"], ["6", "5"]),
    ],
    ids=["Euler", "DDIM", "Heun", "batch of 2", "two batches", "hires"],
)
def test_half_the_calls_reach_the_unet(webui: WebUI, request_: dict[str, Any], dense: list[str], on: list[str]) -> None:
    request = {**BASE, **request_}
    off, skipped = webui.generate(request), webui.generate(request, TWICE)
    assert (figures(off.infotext, "Passes")[-len(dense) :], figures(skipped.infotext, "Passes")[-len(on) :]) == (
        dense,
        on,
    )
    assert len(figures(skipped.infotext, "Skipstone calls run")) == len(on)
    assert "Skipstone calls speedup: 2" in skipped.infotext and "Skipstone refused" not in skipped.infotext
    assert 30 < psnr(off.pngs[-1], skipped.pngs[-1]) < 90
    assert webui.generate(request).pngs == off.pngs


@pytest.mark.parametrize(("sampler", "corrects"), [("Euler", True), ("DDIM", True), ("DPM++ 2M", True), ("LMS", False)])
def test_samplers_whose_steps_are_known_are_corrected(webui: WebUI, sampler: str, corrects: bool) -> None:
    request = {**BASE, "sampler_name": sampler}
    off = webui.generate(request).pngs[0]
    line, own = (webui.generate(request, {**TWICE, "predictor": predictor}) for predictor in ("line", "auto"))
    assert f"({'corrected ' * corrects}line on eps)" in own.infotext and "(line on eps)" in line.infotext
    assert (psnr(line.pngs[0], own.pngs[0]) < 100) is corrects
    assert psnr(off, own.pngs[0]) > psnr(off, line.pngs[0]) - 1


def test_conds_in_calls_of_their_own_are_forecast_alike(webui: WebUI) -> None:
    together = webui.generate(BASE, TWICE)
    with webui.options(batch_cond_uncond=False):
        apart = webui.generate(BASE, TWICE)
    assert figures(apart.infotext, "Passes") == ["12"] and psnr(apart.pngs[0], together.pngs[0]) > 50


def test_all_calls_run_at_a_speedup_of_one_and_at_few_steps(webui: WebUI) -> None:
    for request, args in ((BASE, {**TWICE, "calls_speedup": 1.0}), ({**BASE, "steps": 8}, TWICE)):
        on = webui.generate(request, args)
        off = webui.generate(request, {"enabled": False})
        assert psnr(on.pngs[0], off.pngs[0]) > 90 and figures(on.infotext, "Skipstone calls run") == []
    assert "8 steps are too few" in on.infotext


def test_a_shortened_run_of_img2img_ends_with_a_call_that_runs(webui: WebUI) -> None:
    image = base64.b64encode(webui.generate(BASE).pngs[0]).decode()
    request = {**BASE, "init_images": [image], "steps": 20, "denoising_strength": 0.6}
    for sampler, dense in (("Euler", 13), ("DDIM", 11)):
        off = webui.generate({**request, "sampler_name": sampler})
        on = webui.generate({**request, "sampler_name": sampler}, {**TWICE, "keys": f"0 1 5 {dense - 1}"})
        assert (figures(off.infotext, "Passes"), figures(on.infotext, "Passes")) == ([str(dense)], ["4"])


def test_an_adaptive_sampler_is_declined(webui: WebUI) -> None:
    on = webui.generate({**BASE, "sampler_name": "DPM adaptive"}, TWICE)
    assert "DPM adaptive is not supported" in on.infotext and figures(on.infotext, "Skipstone calls run") == []


def test_infotext_makes_the_same_picture_again(webui: WebUI) -> None:
    first = webui.generate(BASE, {**TWICE, "predictor": "hold", "tail": 2})
    assert "Skipstone predictor: hold, Skipstone tail: 2" in first.infotext
    assert webui.generate({"infotext": first.infotext}).pngs == first.pngs


@pytest.mark.parametrize(
    "sampler", ["Euler", "Euler a", "LMS", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M SDE", "DDIM", "PLMS", "UniPC"]
)
def test_the_announced_calls_are_those_that_the_sampler_makes(webui: WebUI, sampler: str) -> None:
    on = webui.generate({**BASE, "sampler_name": sampler}, {"enabled": True, "threshold": 1.0, "rule": "deepcache"})
    assert "Skipstone blocks run" in on.infotext
    assert "predicted cache peak" in on.infotext and "not announced" not in on.infotext


def test_a_picture_records_a_profile_which_the_next_one_uses(webui: WebUI) -> None:
    own = {"enabled": True, "threshold": 1.0, "speedup": 2.0, "profile": "own.safetensors", "record": True}
    first, second = webui.generate(BASE, own), webui.generate(BASE, own)
    profile = Profile.load(webui.models / "skipstone_profiles" / "own.safetensors")
    assert profile.steps == STEPS and profile.timesteps[0] == pytest.approx(999, abs=1)
    assert "recorded a profile of 12 steps" in first.infotext and figures(first.infotext, "Passes") == ["12"]
    assert figures(second.infotext, "Passes") == ["6"] and "Skipstone refused" not in first.infotext + second.infotext
    assert 25 < psnr(first.pngs[0], second.pngs[0]) < 90


@pytest.mark.skipif(not environ.get("WEBUI_REFINER"), reason="needs a second checkpoint: set WEBUI_REFINER")
def test_a_refiner_skips_calls_of_its_own(webui: WebUI) -> None:
    refined = {**BASE, "refiner_checkpoint": environ.get("WEBUI_REFINER"), "refiner_switch_at": 0.5, "steps": 20}
    dense, on = webui.generate(refined), webui.generate(refined, TWICE)
    shares = [float(share.rstrip("%")) for share in figures(on.infotext, "Skipstone calls run")]
    assert len(shares) == 2 and all(40 <= share <= 60 for share in shares) and "Skipstone refused" not in on.infotext
    assert 25 < psnr(dense.pngs[0], on.pngs[0]) < 90 and webui.generate(refined).pngs == dense.pngs


def test_an_axis_of_the_plot_sets_the_speedup(webui: WebUI) -> None:
    (grid,) = [s for s in webui.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"]]
    axes = next(arg["choices"] for arg in grid["args"] if arg["label"] == "X type")
    axis = [axes.index("[Skipstone] Speedup"), "1, 2", ["1", "2"]]
    rest = [*[0, "", []] * 2, False, True, False, False, False, False, False, 0, False]
    plot = webui.generate(
        BASE, {"enabled": True, "threshold": 1.0}, script_name="x/y/z plot", script_args=[*axis, *rest]
    )
    on = webui.generate(BASE, {"enabled": True, "threshold": 1.0, "speedup": 2.0})
    assert psnr(plot.pngs[-2], webui.generate(BASE).pngs[0]) > 90 and psnr(plot.pngs[-1], on.pngs[0]) > 90


@pytest.mark.parametrize("flag", ["--lowvram", "--medvram"])
def test_a_web_ui_that_moves_its_weights_skips_calls(tmp_path: Path, webui: WebUI, flag: str) -> None:
    folder = place()
    assert folder is not None
    usual = webui.generate(BASE, TWICE)
    with WebUI(folder, tmp_path, skipstone=True, counts=True, flags=flag) as server:
        on = server.generate(BASE, TWICE)
        blocks = server.generate(BASE, {"enabled": True, "threshold": 1.0, "rule": "deepcache"})
    assert figures(on.infotext, "Passes") == ["6"] and psnr(on.pngs[0], usual.pngs[0]) > 50
    assert "Skipstone blocks run" in blocks.infotext and "Skipstone refused" not in on.infotext + blocks.infotext
