"""A small CNN that names the icons: it judges the generated pictures, and its features give a Frechet distance."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ...core.files import write_safetensors
from ...core.measure.fidelity import frechet_distance
from .pictures import CLASSES, draw_pictures

WEIGHTS = Path(__file__).with_name("icons_classifier.safetensors")
CHANNELS = (16, 32, 64, 96)
BATCH = 64


class IconClassifier(nn.Module):
    """Four strided convolutions, a global mean, a linear layer; about 80 thousand parameters.

    Example:
        >>> IconClassifier()(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        pairs = pairwise((3, *CHANNELS))
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(8, o), nn.GELU()) for i, o in pairs
        ]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(CHANNELS[-1], len(CLASSES))

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, 64, 64] in 0..1 -> features [B, 96]."""
        return self.body(pictures * 2 - 1).mean(dim=(2, 3))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, 64, 64] in 0..1 -> class logits [B, 10]."""
        return self.head(self.features(pictures))


@torch.no_grad()
def accuracy(model: IconClassifier, pictures: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the pictures that the classifier names as in the labels.

    Args:
        model: the classifier.
        pictures: [B, 3, 64, 64] in 0..1.
        labels: int64 [B].

    Example:
        >>> pictures, labels = draw_pictures(20, seed=0)
        >>> accuracy(load_classifier(), pictures / 255, labels)
        1.0
    """
    guesses = [model(part).argmax(1) for part in pictures.split(256)]
    return (torch.cat(guesses) == labels).float().mean().item()


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
        >>> save_classifier(IconClassifier(), Path("/no such folder/a.safetensors"), held_out=1.0)
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write '/no such folder/a.safetensors' ...
    """
    write_safetensors(path, model.state_dict(), {"training": json.dumps({"held_out_accuracy": held_out})})


def load_classifier(path: Path | None = None, device: torch.device | str = "cpu") -> IconClassifier:
    """Load a classifier, ready to judge.

    Args:
        path: of the file; the shipped one if None.
        device: for the weights.

    Example:
        >>> load_classifier().training
        False
    """
    model = IconClassifier()
    model.load_state_dict(load_file(path or WEIGHTS))
    return model.eval().to(device)


def icon_frechet(outputs: torch.Tensor, dense: torch.Tensor) -> float:
    """:func:`frechet_distance` between the classifier's features of icons.

    Args:
        outputs: [B, 3, 64, 64] in 0..1.
        dense: of the same shape.

    Example:
        >>> pictures = draw_pictures(20, seed=0)[0] / 255
        >>> round(icon_frechet(pictures, pictures), 3)
        0.0
    """
    judge = load_classifier()
    with torch.no_grad():
        return frechet_distance(judge.features(outputs.float()), judge.features(dense.float()))
