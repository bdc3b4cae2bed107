"""`accelerate launch` with two CPU processes: one voice, one end. That they learn what one learns is in test_shards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import model_folders as folders
import pytest
import torch

from skipstone.cli.processes import joined
from skipstone.core.errors import RecipeError
from skipstone.core.recipe.mask import Mask

pytest.importorskip("accelerate", reason="accelerate is not installed")
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
WORDS = ["--steps", "6", "--batch", "4", "--profile-batch", "1", "--form", "interleaved"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unconditional pixels: the smallest kind."""
    return folders.save("ddim", tmp_path_factory.mktemp("models") / "ddim")


def launched(*words: str) -> subprocess.Popen[str]:
    """`accelerate launch` of two processes without a GPU."""
    port = str(20000 + os.getpid() % 20000)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--multi_gpu",
        "--num_processes",
        "2",
    ]
    launch += ["--main_process_port", port, "-m", "skipstone", "train-mask", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(launch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_interrupting_one_process_ends_both_and_keeps_what_was_learned(model: Path, tmp_path: Path) -> None:
    process = launched(str(model), *WORDS, "--passes", "100000", "--out", str(tmp_path))
    until = time.monotonic() + 60
    while not (tmp_path / "mask_training.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert (said.count("stopped early"), said.count("of the multiply-adds")) == (1, 1), "one voice"
    assert Mask.load(tmp_path / "mask.safetensors").provenance["passes"] < 100000


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    process = launched("no/such/model", *WORDS, "--out", str(tmp_path))
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert error.count("skipstone: no model at 'no/such/model'") == 1
    assert "core/calibrate" not in error and not list(tmp_path.iterdir())


def test_accelerate_that_started_one_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(RecipeError, match="started one process only: give --multi_gpu"), joined("cpu"):
        pass
