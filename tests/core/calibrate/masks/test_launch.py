"""Two processes on CPUs: one voice, one end. That they learn what one learns is in test_shards."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import model_folders as folders
import pytest
import torch
from processes import run_together

from skipstone.cli import main as cli
from skipstone.cli.processes import joined
from skipstone.core.errors import RecipeError
from skipstone.core.recipe.mask import Mask

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
WORDS = ["--steps", "6", "--batch", "4", "--profile-batch", "1", "--form", "interleaved"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unconditional pixels: the smallest kind."""
    return folders.save("ddim", tmp_path_factory.mktemp("models") / "ddim")


def command(rank: int, folder: str, words: list[str]) -> None:
    """The command line in one of the processes; keeps what it wrote and its exit code."""
    with open(Path(folder) / f"{rank}.txt", "w") as said, redirect_stdout(said), redirect_stderr(said):
        try:
            code = cli.main(words)
        except SystemExit as error:
            code = error.code
        print(f"exit code {code}")


def interrupted_once_learning(rank: int, out: str, words: list[str]) -> None:
    """The command line, where the second process alone gets a Ctrl-C once a pass is done."""

    def interrupt() -> None:
        while not (Path(out) / "mask_training.safetensors").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    if rank == 1:
        threading.Thread(target=interrupt, daemon=True).start()
    command(rank, out, words)


def test_interrupting_one_process_ends_both_and_keeps_what_was_learned(model: Path, tmp_path: Path) -> None:
    words = ["train-mask", str(model), *WORDS, "--start", "uniform", "--passes", "100000", "--out", str(tmp_path)]
    run_together(interrupted_once_learning, str(tmp_path), words)
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert (first.count("stopped early"), first.count("of the multiply-adds")) == (1, 1)
    assert first.endswith("exit code 0\n") and second == "exit code 0\n", "one voice"
    assert 0 < Mask.load(tmp_path / "mask.safetensors").provenance["passes"] < 100000


def test_a_failure_is_told_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_together(command, str(tmp_path), ["train-mask", "no/such/model", *WORDS, "--out", str(out)])
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first.startswith("skipstone: no model at 'no/such/model'") and first.count("\n") == 2
    assert first.endswith("exit code 2\n") and second == "exit code 2\n"
    assert not out.exists()


def test_accelerate_that_started_one_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(RecipeError, match="started one process only: give --multi_gpu"), joined("cpu"):
        pass
