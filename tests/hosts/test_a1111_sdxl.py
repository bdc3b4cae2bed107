"""SDXL in a real AUTOMATIC1111 web UI, whose U-Net is `sgm`'s.

Needs `WEBUI_PATH` and what goes with it (see test_a1111.py), and `WEBUI_SDXL`: the name of an SDXL checkpoint there, such as the
tiny one that sdxl_checkpoint.py writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hosts.webui import WebUI, pixels, place

CHECKPOINT = os.environ.get("WEBUI_SDXL", "")
pytestmark = pytest.mark.skipif(
    place() is None or not CHECKPOINT,
    reason="needs a real AUTOMATIC1111 web UI with an SDXL checkpoint: set WEBUI_SDXL",
)

BASE = {"prompt": "a photo of a cat", "seed": 1, "steps": 12, "width": 128, "height": 128, "sampler_name": "Euler"}
REQUESTS: dict[str, dict[str, Any]] = {
    "plain": BASE,
    "wide, two at once": {**BASE, "width": 192, "batch_size": 2, "sampler_name": "DPM++ 2M"},
    "hires": {**BASE, "enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7},
}
METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "preset": ({"level": "Balanced"}, "Skipstone calls run: 58%"),
    "a part of the run": ({"level": "Balanced", "start": 0.3, "end": 0.8}, "Skipstone calls run: 83%"),
    "calls": ({"threshold": 1, "calls_every": 3}, "Skipstone calls run: "),
    "merging": ({"threshold": 0.5}, "Skipstone merged: "),
    "blocks": ({"threshold": 1, "rule": "deepcache", "every": 3}, "Skipstone blocks run: "),
    "pruning": ({"threshold": 1, "dato": "custom", "ratio": 0.4}, "Skipstone pruned: "),
}
FEW_STEPS = {("a part of the run", "wide, two at once"): "Skipstone calls run: 92%"}
"""What is different in some requests: DPM++ 2M has shorter steps at little noise, so that part of the run has three of twelve."""
KIND = '''
from modules import scripts

class Kind(scripts.Script):
    """Writes into the infotext what the web UI takes the model for."""
    def title(self): return "kind"
    def show(self, is_img2img): return scripts.AlwaysVisible
    def process(self, p, *args):
        p.extra_generation_params["Kind"] = f"{p.sd_model.is_sdxl} {type(p.sd_model.model.diffusion_model).__module__}"
'''


def started(folder: Any, data: Any, skipstone: bool) -> Iterator[WebUI]:
    """A web UI with the SDXL checkpoint loaded."""
    with WebUI(folder, data, skipstone=skipstone, scripts={"kind": KIND}) as server:
        server.post("/sdapi/v1/options", {"sd_model_checkpoint": CHECKPOINT})
        yield server


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    """The pictures of a web UI that never had the extension."""
    for server in started(place(), tmp_path_factory.mktemp("plain"), skipstone=False):
        return {name: pixels(server.generate(request).pngs) for name, request in REQUESTS.items()}
    raise AssertionError


@pytest.fixture(scope="module")
def server(never: dict[str, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI with Skipstone."""
    yield from started(place(), tmp_path_factory.mktemp("own"), skipstone=True)


def test_the_web_ui_takes_the_checkpoint_for_sdxl(server: WebUI) -> None:
    infotext = server.generate(BASE, False).infotext
    assert "Kind: True sgm.modules.diffusionmodules.openaimodel" in infotext and "Skipstone" not in infotext


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_method_does_what_it_is_set_to_and_off_is_as_if_never_installed(
    server: WebUI, never: dict[str, list[bytes]], method: str, request_name: str
) -> None:
    settings, told = METHODS[method]
    made = server.generate(REQUESTS[request_name], {"enabled": True, **settings})
    assert FEW_STEPS.get((method, request_name), told) in made.infotext and "refused" not in made.infotext
    assert pixels(made.pngs) != never[request_name]
    assert pixels(server.generate(REQUESTS[request_name], False).pngs) == never[request_name]
