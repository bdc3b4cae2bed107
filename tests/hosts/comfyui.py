"""A real ComfyUI for the tests: started on a free port with a base folder of its own, talked to by its API."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipstone.core.recipe.mask import Mask

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).resolve().parent / "comfy_probe"
FLAGS = "--cpu --use-pytorch-cross-attention"
ALWAYS = "--disable-api-nodes --listen 127.0.0.1 --database-url sqlite:///:memory:"
UNCACHED = "--cache-none"
"""Every prompt runs all of its nodes."""

OLD = ("ComfyUI 0.3.64",)
"""Versions whose classes do not know all of our families, or not these shapes of them, and which have no Nodes 2.0."""

_TIMES = re.compile(r"(\d+\.\d\dx faster in multiply-adds,\s)?\d+\.\d s(,\sabout\s\d+\.\d\ss\ssaved)?;\s?")
"""What a report says of a run's times, which no two runs share."""

Prompt = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """status: success, error or rejected. texts: node id -> what was shown on it last, without times. outputs: node -> text."""

    status: str
    texts: dict[str, str]
    outputs: dict[str, str]
    detail: Any = None

    def report(self, node: str = "merge") -> str:
        """The text on a node, in one line."""
        return self.texts.get(node, "").replace("\n", " ")


class ComfyUI:
    """One server with Skipstone and the probe nodes linked into its custom_nodes."""

    def __init__(self, folder: Path, base: Path, flags: str = UNCACHED) -> None:
        """Nothing is started. folder: ComfyUI's checkout; base: an empty folder for this server; flags: further ones."""
        self._folder, self._base, self._log, self._flags = folder, base, base / "server.log", flags
        nodes = base / "custom_nodes"
        nodes.mkdir(parents=True)
        (nodes / "skipstone").symlink_to(ROOT)
        (nodes / "probe").symlink_to(PROBE)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    @property
    def name(self) -> str:
        """ComfyUI with its version, as it names itself but without a last zero."""
        text = (self._folder / "comfyui_version.py").read_text()
        return f"ComfyUI {text.split(chr(34))[-2].removesuffix('.0')}"

    def __enter__(self) -> ComfyUI:
        """Start, and wait until the server answers."""
        python = os.environ.get("COMFYUI_PYTHON") or str(self._folder / "venv" / "bin" / "python")
        flags = [*os.environ.get("COMFYUI_ARGS", FLAGS).split(), *ALWAYS.split(), *self._flags.split()]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "main.py", *flags, "--port", str(self._port), "--base-directory", str(self._base)],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 300
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"ComfyUI did not start:\n{self.log()[-3000:]}")
            time.sleep(0.5)
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        """The console so far."""
        return self._log.read_text(errors="replace")

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def folder(self) -> Path:
        """ComfyUI's checkout."""
        return self._folder

    @property
    def base(self) -> Path:
        """The server's own folder."""
        return self._base

    @property
    def masks(self) -> Path:
        """Where the server's nodes write masks."""
        return self._base / "output" / "skipstone_masks"

    def mask(self, name: str) -> Mask:
        """A mask that a node has written."""
        return Mask.load(self.masks / name)

    def get(self, path: str) -> bytes:
        """GET."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return answer.read()

    def post(self, path: str, body: Any) -> Any:
        """POST JSON; an error's body is returned as well."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def run(self, prompt: Prompt, seconds: float = 300) -> Result:
        """Queue a prompt and wait for its end."""
        answer = self.queue(prompt)
        return (
            self.result(answer["prompt_id"], seconds) if "prompt_id" in answer else Result("rejected", {}, {}, answer)
        )

    def queue(self, prompt: Prompt) -> dict[str, Any]:
        """Queue a prompt. The answer has its prompt_id, or why it is rejected."""
        return self.post("/prompt", {"prompt": prompt})

    def cancel(self) -> None:
        """Press the cancel button."""
        self.post("/interrupt", {})

    def result(self, prompt_id: str, seconds: float = 300) -> Result:
        """Wait for the end of a prompt."""
        deadline = time.monotonic() + seconds
        while not (entry := json.loads(self.get(f"/history/{prompt_id}")).get(prompt_id)):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError(f"no result after {seconds} s:\n{self.log()[-3000:]}")
            time.sleep(0.05)
        outputs = {node: out["text"][0] for node, out in entry["outputs"].items() if "text" in out}
        texts = {
            node: _TIMES.sub("", text.replace("  \n", "\n")) for node, text in json.loads(self.get("/probe/texts"))
        }
        return Result(entry["status"]["status_str"], texts, outputs, entry["status"]["messages"][-1])

    def _answers(self) -> bool:
        try:
            return bool(self.get("/system_stats"))
        except OSError:
            return False


def places() -> list[Path]:
    """ComfyUI's folders, from COMFYUI_PATH; several may be joined as in PATH. Windows has no symlinks for everyone."""
    paths = os.environ.get("COMFYUI_PATH", "")
    return [Path(p) for p in paths.split(os.pathsep) if p] if sys.platform != "win32" else []
