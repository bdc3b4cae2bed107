"""The script in the web UIs of Forge, reForge and Forge Classic, driven by their API.

Needs `FORGE_PATH` and `FORGE_PYTHON`, its interpreter, or `REFORGE_PATH` and `REFORGE_PYTHON`. Optional: `FORGE_MODELS`,
`FORGE_CHECKPOINT`, `FORGE_EXTENSION`, `FORGE_SITE`, `FORGE_ARGS`, and the same for `REFORGE` and `CLASSIC` (see `webui.Kind`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts.webui import CLASSIC, FORGE, REFORGE, Kind, Picture, WebUI, pixels, place

BASE: dict[str, Any] = {
    "prompt": "a cat", "seed": 1, "steps": 10, "width": 128, "height": 128, "cfg_scale": 7.0, "sampler_name": "Euler",
    "scheduler": "Automatic",
}  # fmt: skip
HIRES = {
    "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7,
    "hr_additional_modules": ["Use same choices"],
}  # fmt: skip


@pytest.fixture(scope="module", params=[FORGE, REFORGE, CLASSIC], ids=lambda kind: kind.prefix)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each that is there."""
    found: Kind = request.param
    if not (place(found) and found.given("PYTHON")):
        pytest.skip(f"needs the web UI: set {found.prefix}_PATH and {found.prefix}_PYTHON")
    return found


@pytest.fixture(scope="module")
def dense(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The pixels of a picture of a web UI that never had the extension."""
    with started(kind, tmp_path_factory.mktemp("plain"), skipstone=False) as server:
        return pixels(server.request(BASE).pngs)


@pytest.fixture(scope="module")
def forge(kind: Kind, tmp_path_factory: pytest.TempPathFactory, dense: Any) -> Iterator[WebUI]:
    """The web UI with Skipstone."""
    with started(kind, tmp_path_factory.mktemp("skipstone"), skipstone=True) as server:
        yield server


def started(kind: Kind, data: Path, skipstone: bool) -> WebUI:
    """A server of this kind, to be entered."""
    folder = place(kind)
    assert folder is not None
    return WebUI(folder, data, skipstone=skipstone, kind=kind)


def draw(forge: WebUI, args: dict[str, Any] | bool, **more: Any) -> Picture:
    """One picture."""
    return forge.request({**BASE, **more, "alwayson_scripts": {"skipstone": {"args": [args]}}})


def figure(picture: Picture, key: str) -> str:
    """The figures of a key of the infotext; empty without it."""
    found = re.search(rf"Skipstone {key}: ([^,\n]*)", picture.infotext)
    return found[1] if found else ""


@pytest.mark.parametrize(
    ("args", "key", "says"),
    [
        ({"level": "Fast"}, "calls run", r"40%"),
        ({"threshold": 0.5}, "merged", r"[1-9]\d%"),
        ({"threshold": 1, "rule": "deepcache", "every": 2}, "blocks run", r"[1-9]\d%"),
        ({"threshold": 1, "dato": "custom", "ratio": 0.4}, "pruned", r"(3\d|40)%"),
        ({"threshold": 0.5, "calls_speedup": 2.0, "rule": "interval"}, "calls run", r"50%"),
    ],
    ids=["preset", "merge", "blocks", "dato", "several"],
)
def test_off_on_off(forge: WebUI, dense: list[bytes], args: dict[str, Any], key: str, says: str) -> None:
    on = draw(forge, {"enabled": True, **args})
    assert pixels(on.pngs) != dense and re.fullmatch(says, figure(on, key)) and not figure(on, "refused")
    assert pixels(draw(forge, False).pngs) == dense


def test_the_hires_pass_has_a_strength_of_its_own(forge: WebUI) -> None:
    own = {"enabled": True, "level": "Balanced", "hires_pass": "own", "hires_level": "Fast"}
    assert figure(draw(forge, own, **HIRES), "calls run") == "60% / 40%"


def test_a_wrong_value_is_told_and_the_picture_unaccelerated(forge: WebUI, dense: list[bytes]) -> None:
    picture = draw(forge, {"enabled": True, "every": 2.5})
    assert pixels(picture.pngs) == dense
    assert picture.info["extra_generation_params"]["Skipstone refused"].startswith("did nothing: every=2.5 must be")
    assert "Skipstone did nothing: every=2.5" in forge.log()


def test_the_settings_page_and_the_axes_are_there(forge: WebUI) -> None:
    forge.post("/sdapi/v1/options", {"skipstone_results": False})
    quiet = draw(forge, {"enabled": True, "level": "Fast"})
    forge.post("/sdapi/v1/options", {"skipstone_results": True})
    assert figure(quiet, "level") == "Fast" and not figure(quiet, "calls run")
    (grid,) = [s for s in forge.get("/sdapi/v1/script-info") if s["name"] == "x/y/z plot" and not s["is_img2img"]]
    axes = [name for arg in grid["args"] if arg["label"] == "X type" for name in arg["choices"]]
    assert {"[Skipstone] Preset", "[Skipstone] Speedup", "[Skipstone] Mask file"} <= set(axes)
