"""Training of the classifier that names the demo's icons."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.nn import functional as F

from ..core.files import write_safetensors
from ..lab.demo_models.classifier import IconClassifier, accuracy
from ..lab.demo_models.pictures import draw_pictures

BATCH = 64


def _augment(pictures: torch.Tensor) -> torch.Tensor:
    """Shift by up to 4 pixels and add noise of up to 0.15, so that small artefacts do not decide."""
    down, right = torch.randint(-4, 5, (2,)).tolist()
    noise = torch.randn_like(pictures) * torch.rand(len(pictures), 1, 1, 1) * 0.15
    return pictures.roll((down, right), (2, 3)) + noise


def train_classifier(pictures: torch.Tensor, labels: torch.Tensor, steps: int) -> IconClassifier:
    """Train a classifier.

    Args:
        pictures: uint8 [N, 3, 64, 64].
        labels: int64 [N].
        steps: number of batches.

    Example:
        >>> with torch.random.fork_rng(devices=[]):
        ...     train_classifier(*draw_pictures(10, seed=0), steps=1).training
        False
    """
    model = IconClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(pictures), (BATCH,))
        logits = model(_augment(pictures[chosen].float() / 255))
        F.cross_entropy(logits, labels[chosen], label_smoothing=0.05).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


def held_out_accuracy(model: IconClassifier, count: int = 2000, seed: int = 1) -> float:
    """Accuracy on freshly drawn pictures.

    Args:
        model: the classifier.
        count: of pictures.
        seed: of the pictures; another than the training's.

    Example:
        >>> from ..lab.demo_models.classifier import load_classifier
        >>> held_out_accuracy(load_classifier(), count=20)
        1.0
    """
    pictures, labels = draw_pictures(count, seed)
    return accuracy(model, pictures.float() / 255, labels)


def save_classifier(model: IconClassifier, path: Path, held_out: float) -> None:
    """Write the weights, with the held-out accuracy as metadata.

    Args:
        model: the classifier.
        path: of the file.
        held_out: accuracy on pictures that were not trained on.

    Raises :class:`FileError`; an earlier file is then unchanged.

    Example:
        >>> save_classifier(IconClassifier(), Path(__file__) / "a.safetensors", held_out=1.0)
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write ...
    """
    write_safetensors(path, model.state_dict(), {"training": json.dumps({"held_out_accuracy": held_out})})
