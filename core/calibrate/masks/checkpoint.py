"""Training state in a safetensors file, so that a training can be stopped and continued to the same result."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import MaskError, shown_path
from ...files import make_folder, write_safetensors
from .progress import Progress

if TYPE_CHECKING:
    from .trainer import Training

FORMAT_VERSION = 2
_LARGEST = 1e30
_MOST_HEAD = 1 << 26
"""Characters of a header: more than the history of a million passes."""
_REMEDY = "train without --resume"


def save_checkpoint(path: Path, training: Training) -> None:
    """Write the state; an earlier file is replaced only when the new one is whole. Raises :class:`FileError`."""
    learner = training.learner
    head: dict[str, Any] = {"skipstone_training": FORMAT_VERSION, "settings": training.settings.to_dict()}
    head |= {"done": learner.done, "lambda1": learner.lambda1, "begun_at": learner.begun_at, "excess": learner.excess}
    head["history"] = [asdict(p) for p in training.history]
    make_folder(path.parent)
    write_safetensors(path, _tensors(training), {"training": json.dumps(head)})


def load_checkpoint(path: Path, training: Training) -> None:
    """Continue where a checkpoint was written. Nothing is changed unless the whole file fits.

    Raises :class:`SkipstoneError` for a file that is broken, or was written for another model or with other settings.
    """
    try:
        head, tensors = _read(path)
        _check_head(head)
        training.settings.check_same(head["settings"])
        _check_tensors(tensors, _tensors(training))
    except MaskError as error:
        raise MaskError(f"the checkpoint {shown_path(path)} {error}: {_REMEDY}") from None
    learner = training.learner
    learner.gates.assign(tensors["probabilities"])
    learner.gates.generator.set_state(tensors["generator"])
    learner.adam.mean, learner.adam.square = tensors["adam_mean"], tensors["adam_square"]
    learner.adam.steps = tensors["adam_steps"]
    learner.done, learner.lambda1 = head["done"], float(head["lambda1"])
    learner.begun_at, learner.excess = float(head["begun_at"]), float(head["excess"])
    training.start = tensors["start"].bool().numpy()
    training.history[:] = [Progress(**p) for p in head["history"]]


def _tensors(training: Training) -> dict[str, Tensor]:
    learner = training.learner
    start = training.run() if training.start is None else training.start
    return {
        "probabilities": learner.gates.values,
        "generator": learner.gates.generator.get_state(),
        "adam_mean": learner.adam.mean,
        "adam_square": learner.adam.square,
        "adam_steps": learner.adam.steps,
        "start": torch.from_numpy(start).to(torch.uint8),
    }


_RANGES = {"probabilities": (0.0, 1.0), "adam_square": (0.0, _LARGEST), "adam_steps": (0.0, _LARGEST), "start": (0, 1)}
_NUMBERS = {"lambda1": (0.0, _LARGEST), "begun_at": (0.0, _LARGEST), "excess": (-_LARGEST, _LARGEST)}


def _read(path: Path) -> tuple[Any, dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            notes = (file.metadata() or {})["training"]
            if len(notes) > _MOST_HEAD:
                raise MaskError("has a header that is too long")
            return json.loads(notes), {name: file.get_tensor(name) for name in file.keys()}
    except MaskError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError):
        raise MaskError("is no training checkpoint of Skipstone") from None


def _check_head(head: Any) -> None:
    if not isinstance(head, dict) or head.get("skipstone_training") != FORMAT_VERSION:
        raise MaskError("is of another version of Skipstone")
    done, history = head.get("done"), head.get("history")
    if type(done) is not int or not isinstance(history, list) or not 0 <= done == len(history):
        raise MaskError("does not say how many passes were done")
    if not all(map(_is_progress, history)):
        raise MaskError("has a broken history")
    for name, (low, high) in _NUMBERS.items():
        value = head.get(name)
        if not _is_number(value) or not low <= value <= high:
            raise MaskError(f"has no number for {name}")
    if not isinstance(head.get("settings"), dict):
        raise MaskError("has no settings")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_progress(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {f.name for f in fields(Progress)} or entry["stage"] != "train":
        return False
    whole = type(entry["done"]) is type(entry["total"]) is int
    return whole and all(_is_number(entry[n]) and not math.isinf(entry[n]) for n in ("loss", "share", "settled"))


def _check_tensors(tensors: dict[str, Tensor], like: dict[str, Tensor]) -> None:
    """Names, shapes, kinds and values, against the state before the first pass."""
    if missing := sorted(set(like) - set(tensors)):
        raise MaskError(f"lacks {missing[0]}")
    if tensors["probabilities"].shape != like["probabilities"].shape:
        raise MaskError("was written for another model or number of calls")
    for name, wanted in like.items():
        found, (low, high) = tensors[name], _RANGES.get(name, (-_LARGEST, _LARGEST))
        fits = found.shape == wanted.shape and found.dtype == wanted.dtype
        if not fits or not bool(((found >= low) & (found <= high)).all()):
            raise MaskError(f"has broken values of {name}")
    if not tensors["start"][0].all():
        raise MaskError("has broken values of start")
    try:
        torch.Generator().set_state(tensors["generator"])
    except RuntimeError:
        raise MaskError("has broken values of generator") from None
