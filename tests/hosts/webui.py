"""A real AUTOMATIC1111 web UI for the tests: started on a free port with a data folder of its own, talked to by its API."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--skip-prepare-environment --skip-python-version-check --skip-torch-cuda-test --skip-version-check --no-half "
    "--use-cpu all --do-not-download-clip --no-hashing --no-download-sd-model --api --disable-console-progressbars"
)


@dataclass(frozen=True)
class Kind:
    """A kind of web UI.

    Args:
        prefix: of its environment variables: PATH, PYTHON (its interpreter), SITE (its PYTHONPATH), CHECKPOINT, ARGS (flags in
            place of these), MODELS (its models folder), EXTENSION (a folder to add to its extensions, such as one that lets a
            small checkpoint load).
        flags: of its command line.
        ready: what its log says once it is ready.
        named: whether a flag names its models folder; otherwise that of the data folder is used.
        settings: its settings that differ from its own defaults.
    """

    prefix: str
    flags: str
    ready: tuple[str, ...]
    named: bool = True
    settings: tuple[tuple[str, Any], ...] = ()

    def given(self, name: str) -> str:
        """The value of a variable; empty where it is not set."""
        return os.environ.get(f"{self.prefix}_{name}", "")


A1111 = Kind("WEBUI", FLAGS, ("Model loaded in", "Startup time:"))
FORGE = Kind(
    "FORGE",
    "--skip-prepare-environment --skip-python-version-check --skip-torch-cuda-test --skip-version-check --always-cpu "
    "--attention-pytorch --all-in-fp32 --no-hashing --no-download-sd-model --api",
    ("Startup time:",),
)
REFORGE = Kind(
    "REFORGE",
    "--skip-prepare-environment --skip-python-version-check --skip-torch-cuda-test --skip-version-check --always-cpu --no-half "
    "--no-hashing --no-download-sd-model --do-not-download-clip --api",
    ("Startup time:",),
)
CLASSIC = Kind(
    "CLASSIC",
    REFORGE.flags.replace(" --do-not-download-clip", ""),
    REFORGE.ready,
    named=False,
    settings=(("skip_early_cond", -1),),
)
"""Forge Classic, on gradio 3. Its Skip Early CFG leaves the first step's uncond out even at 0: forecasts of it then begin later."""

RAISER = '''
from modules import scripts

class Raiser(scripts.Script):
    """Raises in the middle of the U-Net at the call that its argument names."""
    def title(self): return "raiser"
    def show(self, is_img2img): return scripts.AlwaysVisible
    def ui(self, is_img2img):
        import gradio as gr
        return [gr.Number(-1, label="call", visible=False)]
    def process_before_every_sampling(self, p, call, **kwargs):
        left = [call]
        def count(module, args):
            left[0] -= 1
            if left[0] == 0:
                handle.remove()
                raise RuntimeError("raised on purpose")
        if call > 0:
            handle = p.sd_model.model.diffusion_model.middle_block.register_forward_pre_hook(count)
'''
COUNTER = '''
import re
from modules import scripts

class Counter(scripts.Script):
    """Writes into the infotext how often the U-Net really ran in each pass, and the comments without numbers of runs."""
    def title(self): return "counter"
    def show(self, is_img2img): return scripts.AlwaysVisible
    def before_process(self, p): self.counts, self.inside = [], None
    def process_before_every_sampling(self, p, **kwargs):
        self.restore()
        self.counts.append(0)
        inside = self.inside = p.sd_model.model.diffusion_model.middle_block[0].in_layers[2]
        forward = inside.forward
        def count(x):
            self.counts[-1] += 1
            return forward(x)
        inside.forward = count  # a hook is taken for one that reads what the model computes
    def restore(self):
        if self.inside: del self.inside.forward
        self.inside = None
    def post_sample(self, p, ps):
        self.restore()
        p.extra_generation_params["Passes"] = " / ".join(map(str, self.counts))
    def postprocess_batch(self, p, **kwargs):
        if p.comments:
            p.extra_generation_params["Comments"] = re.sub(r"run \\d+, ", "", " | ".join(p.comments))
'''


@dataclass
class Picture:
    """What a generation returned: PNG files with their metadata, the infotext of the first, and the answer's `info`."""

    pngs: list[bytes]
    infotext: str
    info: dict[str, Any]


class WebUI:
    """One server. `skipstone`: link the checkout into its extensions folder. models: its folder, with links to the models."""

    def __init__(
        self, webui: Path, data: Path, skipstone: bool, counts: bool = False, flags: str = "",
        scripts: Mapping[str, str] | None = None, kind: Kind = A1111,
    ) -> None:  # fmt: skip
        """Nothing is started. webui: the web UI's folder; data: an empty folder for this server. counts: add "Passes" to the
        infotext, how often the U-Net ran in each pass. flags: more of them for its command line. scripts: name -> text of
        scripts of further extensions. kind: of web UI."""
        self._webui, self._flags = webui, flags.split()
        self._data, self._kind = data, kind
        self._log = data / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        extensions = {"raiser": RAISER} | ({"counter": COUNTER} if counts else {}) | dict(scripts or {})
        for name, text in extensions.items():
            folder = data / "extensions" / name / "scripts"
            folder.mkdir(parents=True)
            (folder / f"{name}.py").write_text(text)
        if skipstone:
            (data / "extensions" / "skipstone").symlink_to(ROOT)
        if more := kind.given("EXTENSION"):
            (data / "extensions" / Path(more).name).symlink_to(more)
        self.models = data / "models"
        self.models.mkdir()
        for folder in Path(kind.given("MODELS") or webui / "models").iterdir():
            (self.models / folder.name).symlink_to(folder)
        settings = {"samples_save": False, "grid_save": False, "sd_vae": "None", "show_progress_every_n_steps": -1}
        settings["live_previews_enable"] = False
        settings |= dict(kind.settings)
        if checkpoint := kind.given("CHECKPOINT"):
            settings["sd_model_checkpoint"] = checkpoint
        (data / "config.json").write_text(json.dumps(settings))

    def __enter__(self) -> WebUI:
        """Start, and wait until the API is complete (it answers earlier), and in A1111 until a model is loaded."""
        python = self._kind.given("PYTHON") or str(self._webui / "venv" / "bin" / "python")
        flags = [*(self._kind.given("ARGS") or self._kind.flags).split(), *self._flags]
        places = ["--data-dir", str(self._data), *(["--models-dir", str(self.models)] if self._kind.named else [])]
        places += ["--gradio-allowed-path", str(self._webui)]  # by itself Forge serves the data folder's scripts alone
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONPATH": site} if (site := self._kind.given("SITE")) else {}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "launch.py", *flags, *places, "--port", str(self.port)],
                cwd=self._webui,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 600
        while not all(said in self.log() for said in self._kind.ready):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"the web UI did not start:\n{self.log()[-3000:]}")
            time.sleep(0.5)
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop. The web UI catches softer signals and saves nothing on them either."""
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def log(self) -> str:
        """The console so far."""
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> Any:
        """GET a JSON answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST JSON; raises urllib's HTTPError for an error of the server."""
        url, headers = f"http://127.0.0.1:{self.port}{path}", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read() or b"null")

    @contextmanager
    def options(self, **values: Any) -> Iterator[None]:
        """Options in force for a while. A job's own `override_settings` would stay when the option was never saved."""
        before = self.get("/sdapi/v1/options")
        self.post("/sdapi/v1/options", values)
        try:
            yield
        finally:
            self.post("/sdapi/v1/options", {name: before[name] for name in values})

    def generate(self, request: dict[str, Any], *args: Any, call: int = 0, **more: Any) -> Picture:
        """Make a picture. args: Skipstone's; call: the U-Net call at which to raise, 0 for never."""
        scripts = {"raiser": {"args": [call]}} | ({"skipstone": {"args": list(args)}} if args else {})
        return self.request({**request, **more, "alwayson_scripts": scripts})

    def request(self, request: dict[str, Any]) -> Picture:
        """Make a picture by a request that has everything."""
        answer = self.post(f"/sdapi/v1/{'img2img' if 'init_images' in request else 'txt2img'}", request)
        info = json.loads(answer["info"])
        return Picture([base64.b64decode(i) for i in answer["images"]], info["infotexts"][0], info)


def pixels(pngs: list[bytes]) -> list[bytes]:
    """The pixels: the PNGs' IDAT chunks."""
    return [b"".join(re.findall(rb"IDAT(.*?)(?=....(?:IDAT|IEND))", png, re.DOTALL)) for png in pngs]


def place(kind: Kind = A1111) -> Path | None:
    """The web UI's folder, from WEBUI_PATH; None where it is not set. Windows has no symlinks for everyone."""
    path = kind.given("PATH")
    return Path(path) if path and sys.platform != "win32" else None
