"""Training checkpoints: what is broken is refused in one short line, and nothing of it is taken over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from toys import Skips, toy

from skipstone.core.calibrate.masks.settings import TrainSettings
from skipstone.core.calibrate.masks.state import Training
from skipstone.core.calibrate.masks.trainer import begin, train_masked
from skipstone.core.errors import FileError, SkipstoneError

SETTINGS = TrainSettings(form="interleaved", passes=2, batch=2, refine_batch=2, profile_batch=2)
Head, Tensors = dict[str, Any], dict[str, Tensor]


def fresh() -> Training:
    """Before the first pass."""
    return begin(toy(), SETTINGS)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a training of two passes."""
    path = tmp_path_factory.mktemp("checkpoint") / "training.safetensors"
    train_masked(toy(), SETTINGS, checkpoint=path)
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, written: bytes) -> Path:
    """A copy of it."""
    path = tmp_path / "training.safetensors"
    path.write_bytes(written)
    return path


def rewrite(path: Path, change: Callable[[Head, Tensors], Any]) -> None:
    """The same file with a changed head or changed tensors; `change` may return another text for the head."""
    with safe_open(str(path), framework="pt") as opened:
        head = json.loads(opened.metadata()["training"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}
    text = change(head, tensors)
    save_file(tensors, str(path), {"training": text if isinstance(text, str) else json.dumps(head)})


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Head, Tensors], None]:
    return lambda head, tensors: tensors.update({name: change(tensors[name])})


def set_to(value: float) -> Callable[[Tensor], Tensor]:
    """One entry of a tensor."""

    def change(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return change


def head(**changes: Any) -> Callable[[Head, Tensors], None]:
    return lambda head, tensors: head.update(changes)


def pass_with(**changes: Any) -> Callable[[Head, Tensors], None]:
    return lambda head, tensors: head["history"][0].update(changes)


BROKEN = {
    "probabilities-nan": changed("probabilities", set_to(float("nan"))),
    "probabilities-above-one": changed("probabilities", set_to(1.5)),
    "probabilities-half": changed("probabilities", lambda t: t.half()),
    "probabilities-flat": changed("probabilities", lambda t: t.flatten()),
    "adam-mean-shape": changed("adam_mean", lambda t: t[:-1].contiguous()),
    "adam-mean-infinite": changed("adam_mean", set_to(float("inf"))),
    "adam-square-negative": changed("adam_square", set_to(-1.0)),
    "adam-square-scalar": changed("adam_square", lambda t: t.sum()),
    "adam-steps-shape": changed("adam_steps", lambda t: t[None]),
    "adam-steps-nan": changed("adam_steps", set_to(float("nan"))),
    "generator-short": changed("generator", lambda t: t[:16].contiguous()),
    "generator-floats": changed("generator", lambda t: t.float()),
    "generator-noise": changed("generator", lambda t: torch.full_like(t, 255)),
    "start-of-twos": changed("start", set_to(2)),
    "start-without-first-call": changed("start", torch.zeros_like),
    "no-probabilities": lambda head, tensors: tensors.pop("probabilities"),
    "no-generator": lambda head, tensors: bool(tensors.pop("generator") is None),
    "done-text": head(done="2"),
    "done-none": head(done=None),
    "done-negative": head(done=-1),
    "done-beyond-history": head(done=10**9),
    "lambda-text": head(lambda1="1"),
    "lambda-nan": head(lambda1=float("nan")),
    "excess-infinite": head(excess=float("inf")),
    "begun-at-list": head(begun_at=[]),
    "history-text": head(history="none"),
    "history-of-numbers": head(history=[1, 2]),
    "history-unknown-key": pass_with(colour=1),
    "history-text-loss": pass_with(loss="low"),
    "history-other-stage": pass_with(stage="refine"),
    "settings-list": head(settings=[]),
    "settings-none": head(settings=None),
    "version": head(skipstone_training=99),
    "head-list": lambda head, tensors: "[]",
    "head-no-json": lambda head, tensors: "{",
    "head-deep": lambda head, tensors: "[" * 100_000,
    "head-long-number": lambda head, tensors: json.dumps(head)[:-1] + ', "x": ' + "9" * 5000 + "}",
}


def refused(path: Path) -> str:
    """The one line by which a checkpoint is refused; the training stays as it was."""
    training = fresh()
    learner = training.strategy.learner  # type: ignore[attr-defined]
    before = (learner.gates.values, learner.gates.generator.get_state(), learner.lambda1)
    with pytest.raises(SkipstoneError) as caught:
        training.load(path)
    assert torch.equal(learner.gates.values, before[0]) and learner.lambda1 == before[2]
    assert torch.equal(learner.gates.generator.get_state(), before[1])
    assert learner.done == 0 and training.history == [] and training.start is None
    return str(caught.value)


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_checkpoint_is_refused_in_one_short_line(file: Path, change: Callable[[Head, Tensors], Any]) -> None:
    rewrite(file, change)
    line = refused(file)
    assert "\n" not in line and len(line) < 300 and line.endswith("train without --resume")


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff" * 64], ids=["empty", "text", "huge-header"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ("long" * 40)
    path.write_bytes(content)
    line = refused(path)
    assert "is no training checkpoint of Skipstone" in line and len(line) < 300


def test_a_folder_or_a_cut_file_is_refused(file: Path) -> None:
    assert "no training checkpoint" in refused(file.parent)
    file.write_bytes(file.read_bytes()[:-7])
    assert "no training checkpoint" in refused(file)


def test_a_checkpoint_of_other_settings_names_a_few_of_them(file: Path) -> None:
    rewrite(file, head(settings=dict.fromkeys(TrainSettings().to_dict())))
    line = refused(file)
    assert "other settings (target, speedup, batch, form, window and 22 more)" in line and len(line) < 300


CHECKPOINTS = Path(__file__).with_name("checkpoints")
"""Written after 2 of 5 passes, before each form had a state of its own; `resumed` is what the other three passes gave then."""


@pytest.mark.parametrize("form", ["search", "exchange", "interleaved"])
def test_a_checkpoint_of_an_earlier_version_goes_on_to_the_same_mask(form: str, tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    path.write_bytes((CHECKPOINTS / f"{form}.safetensors").read_bytes())
    given: dict[str, Any] = {"form": form, "passes": 5, "batch": 2, "updates": 3, "lr": 0.1, "profile_batch": 2}
    resumed = train_masked(toy(Skips(6)), TrainSettings(refine_batch=4, **given), checkpoint=path)
    was = load_file(CHECKPOINTS / "resumed.safetensors")
    assert torch.equal(torch.from_numpy(resumed.mask.run), was[f"{form}.run"].bool())
    torch.testing.assert_close(torch.from_numpy(resumed.mask.probabilities), was[f"{form}.probabilities"])
    torch.testing.assert_close(torch.tensor([p.loss for p in resumed.history]).double(), was[f"{form}.losses"])


def test_only_forms_that_step_along_gradients_keep_an_optimiser() -> None:
    kept = {
        form: set(begin(toy(), TrainSettings(form=form)).strategy.tensors())
        for form in ("search", "exchange", "windowed")
    }
    assert kept["search"] == {"probabilities"} and kept["exchange"] == {"probabilities", "adam_mean"}
    assert kept["windowed"] == {"probabilities", "generator", "adam_mean", "adam_square", "adam_steps"}


def test_what_was_saved_is_loaded_whole(file: Path) -> None:
    training = fresh()
    training.load(file)
    assert training.strategy.done == len(training.history) == 2
    assert training.start is not None and training.start[0].all()
    again = file.with_name("again.safetensors")
    training.save(again)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("form", ["search", "exchange", "windowed", "sequential"])
def test_a_loaded_state_is_the_saved_one(form: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"passes": 2, "batch": 2, "updates": 1, "refine_batch": 2, "profile_batch": 2}
    written, settings = tmp_path / "training.safetensors", TrainSettings(form=form, **given)
    train_masked(toy(), settings, checkpoint=written)
    training = begin(toy(), settings)
    training.load(written)
    training.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == written.read_bytes()


def test_a_new_training_leaves_the_old_checkpoint_until_its_own_stands(file: Path) -> None:
    old, seen = file.read_bytes(), []

    def stop_in_the_first_pass(call: int) -> None:
        raise KeyboardInterrupt

    model = toy()
    model.denoiser.on_predict = stop_in_the_first_pass
    with pytest.raises(KeyboardInterrupt):
        train_masked(model, SETTINGS, checkpoint=file, resume=False)
    assert file.read_bytes() == old
    train_masked(toy(), SETTINGS, lambda now: seen.append(now.done), checkpoint=file, resume=False)
    assert seen == [1, 2]


def test_a_disk_that_is_full_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise FileError("cannot write 'x' (No space left on device): choose another folder")

    monkeypatch.setattr("skipstone.core.calibrate.masks.checkpoint.write_safetensors", full)
    trained = train_masked(toy(), SETTINGS, checkpoint=tmp_path / "training.safetensors")
    assert len(trained.history) == 2 and trained.mask.run[0].all()
    said = [r.getMessage() for r in caplog.records if "without a checkpoint" in r.getMessage()]
    assert len(said) == 1 and "No space left on device" in said[0]
