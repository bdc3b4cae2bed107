"""`skipstone train-mask`: from a model's name to a mask that the engine takes, with its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file

from skipstone.cli import main as cli
from skipstone.cli import train_mask as command
from skipstone.core.calibrate.masks import report
from skipstone.core.errors import FileError
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.pipelines.accelerate import accelerate

QUICK = ["--steps", "6", "--passes", "2", "--batch", "2", "--tries", "2", "--refine-batch", "2", "--profile-batch", "1"]


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny pipelines by name."""
    makers = {"dit": tiny.dit_pipeline, "sd": tiny.sd_pipeline}
    monkeypatch.setattr(command, "load_model", lambda model, *a: makers[model]())


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No curve and no histogram: they take longer than such a training."""
    monkeypatch.setattr(report, "write_report", lambda *_: [])


def test_a_mask_is_trained_written_drawn_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train-mask", "dit", *QUICK, "--target", "0.6", "--out", str(tmp_path)]) == 0
    mask = Mask.load(tmp_path / "mask.safetensors")
    assert mask.run.shape == (6, 4) and abs(mask.provenance["share"] - 0.6) < 0.06
    assert mask.provenance["model"] == "dit" and mask.provenance["settings"]["passes"] == 2
    for name in ("curve", "heatmap", "histogram"):
        picture = Image.open(tmp_path / f"mask_{name}.png")
        assert min(picture.size) > 100 and len(set(picture.convert("L").resize((64, 64)).getdata())) > 3
    said = capsys.readouterr().out
    assert f"{mask.provenance['share']:.1%} of the multiply-adds" in said and "search" not in said.splitlines()[-1]
    pipe = tiny.dit_pipeline()
    with accelerate(pipe, BlockSkip(mask=str(tmp_path / "mask.safetensors"))) as handle:
        pipe([1], num_inference_steps=6, generator=torch.Generator().manual_seed(0))
        assert handle.report().blocks_run == int(mask.run.sum())


@pytest.mark.usefixtures("undrawn")
def test_given_embeddings_and_a_speedup(tmp_path: Path) -> None:
    file = tmp_path / "embeddings.safetensors"
    save_file({"embeddings": tiny.noise(3, *tiny.CONTEXT), "empty": tiny.noise(1, *tiny.CONTEXT, seed=9)}, file)
    words = ["train-mask", "sd", *QUICK, "--speedup", "1.5", "--embeddings", str(file), "--out", str(tmp_path)]
    assert cli.main([*words, "--form", "interleaved", "--start", "uniform"]) == 0
    mask = Mask.load(tmp_path / "mask.safetensors")
    assert abs(mask.provenance["share"] - 1 / 1.5) < 0.03 and mask.caching == "output"


@pytest.mark.usefixtures("undrawn")
def test_resuming_adds_passes_to_those_that_are_done(tmp_path: Path) -> None:
    words = ["train-mask", "dit", *QUICK, "--out", str(tmp_path), "--form", "interleaved"]
    assert cli.main(words) == 0
    assert cli.main([*words, "--resume", "--passes", "3"]) == 0
    assert len(Mask.load(tmp_path / "mask.safetensors").provenance["losses"]) == 3
    assert cli.main([*words, "--passes", "1"]) == 0
    assert len(Mask.load(tmp_path / "mask.safetensors").provenance["losses"]) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--target", "0"], "target=0.0 is outside [0.01, 1]: 0.6 is a good beginning"),
        (["--target", "0.05"], "the target is out of reach"),
        (["--embeddings", "no.safetensors"], "DiTPipeline takes no embeddings"),
        (["--embeddings", "no.safetensors", "--prompts", "1"], "exclude each other"),
        (["--batch", "0"], "batch=0 must be a whole number from 1 on"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train-mask", "dit", *QUICK, "--out", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and "Traceback" not in error


def test_a_file_without_embeddings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train-mask", "sd", *QUICK, "--out", str(tmp_path), "--embeddings", "no.safetensors"]) == 2
    assert "no embeddings in 'no.safetensors'" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_a_mask_that_cannot_be_written_where_it_should_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk at the end of a training."""
    out, elsewhere, save = tmp_path / "out", tmp_path / "elsewhere", Mask.save
    elsewhere.mkdir()

    def full(mask: Mask, path: Path) -> None:
        if path.parent in (out, Path.cwd()):
            raise FileError(f"cannot write {str(path)!r} (No space left on device)")
        save(mask, path)

    monkeypatch.setattr(Mask, "save", full)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    assert cli.main(["train-mask", "dit", *QUICK, "--out", str(out)]) == 0
    (path,) = elsewhere.iterdir()
    assert Mask.load(path).run.shape == (6, 4)
    said = " ".join(capsys.readouterr().out.split())
    assert "No space left on device" in said and path.name in said.replace(" ", "")


def test_pictures_that_cannot_be_drawn_cost_no_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mask_curve.png").mkdir()
    assert cli.main(["train-mask", "dit", *QUICK, "--out", str(tmp_path)]) == 0
    assert Mask.load(tmp_path / "mask.safetensors").run.shape == (6, 4)
    assert "cannot write" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_into_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "train", lambda *_: pytest.fail("it trained"))
    (tmp_path / "file").write_text("")
    assert cli.main(["train-mask", "dit", *QUICK, "--out", str(tmp_path / "file" / "out")]) == 2
    line = capsys.readouterr().err.strip()
    assert "cannot write" in line and len(line) < 300 and "\n" not in line


@pytest.mark.usefixtures("undrawn")
def test_the_papers_form_is_one_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train-mask", "dit", *QUICK, "--form", "paper", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    mask = Mask.load(tmp_path / "mask.safetensors")
    made = mask.provenance["settings"]
    assert (made["form"], made["start"], made["control"], made["cost_weighted"]) == ("paper", "uniform", "dual", False)
    assert not mask.forecast
    assert cli.main([*words, "--sampling", "gumbel"]) == 2
    assert "form='paper' has sampling='bernoulli'" in " ".join(capsys.readouterr().err.split())
