"""Training state in a safetensors file, so that a training can be stopped and gone on with to the same result."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...errors import MaskError

if TYPE_CHECKING:
    from .trainer import Training

FORMAT_VERSION = 1


def save_checkpoint(path: Path, training: Training) -> None:
    """Write the state; an earlier file is replaced only when the new one is whole."""
    learner = training.learner
    tensors = {
        "probabilities": learner.gates.values,
        "generator": learner.gates.generator.get_state(),
        "adam_mean": learner.adam.mean,
        "adam_square": learner.adam.square,
        "adam_steps": learner.adam.steps,
    }
    head: dict[str, Any] = {"skipstone_training": FORMAT_VERSION, "settings": training.settings.to_dict()}
    head |= {"done": learner.done, "lambda1": learner.lambda1, "begun_at": learner.begun_at, "excess": learner.excess}
    head["history"] = [asdict(p) for p in training.history]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(tensors, str(part), metadata={"training": json.dumps(head)})
    os.replace(part, path)


def load_checkpoint(path: Path, training: Training) -> None:
    """Go on where a checkpoint was written. Raises :class:`SkipstoneError` for a file that does not fit."""
    from .trainer import Progress

    try:
        with safe_open(str(path), framework="pt") as file:
            head = json.loads((file.metadata() or {})["training"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError):
        raise MaskError(f"{str(path)!r} is no training checkpoint of Skipstone: give another file") from None
    learner = training.learner
    if head.get("skipstone_training") != FORMAT_VERSION or tensors["probabilities"].shape != learner.gates.values.shape:
        raise MaskError(f"{str(path)!r} was written for another model or number of calls: start anew")
    training.settings.check_same(head["settings"])
    learner.gates.assign(tensors["probabilities"])
    learner.gates.generator.set_state(tensors["generator"].to(torch.uint8))
    learner.adam.mean, learner.adam.square = tensors["adam_mean"], tensors["adam_square"]
    learner.adam.steps = tensors["adam_steps"]
    learner.done, learner.lambda1 = head["done"], head["lambda1"]
    learner.begun_at, learner.excess = head["begun_at"], head["excess"]
    training.history[:] = [Progress(**p) for p in head["history"]]
