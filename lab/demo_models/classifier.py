"""A small CNN that names the icons: it judges the generated pictures, and its features give a Frechet distance."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ...core.measure.fidelity import frechet_distance
from .pictures import CLASSES

WEIGHTS = Path(__file__).with_name("icons_classifier.safetensors")
CHANNELS = (16, 32, 64, 96)


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
        >>> from .pictures import draw_pictures
        >>> pictures, labels = draw_pictures(20, seed=0)
        >>> accuracy(load_classifier(), pictures / 255, labels)
        1.0
    """
    guesses = [model(part).argmax(1) for part in pictures.split(256)]
    return (torch.cat(guesses) == labels).float().mean().item()


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
        >>> from .pictures import draw_pictures
        >>> pictures = draw_pictures(20, seed=0)[0] / 255
        >>> round(icon_frechet(pictures, pictures), 3)
        0.0
    """
    judge = load_classifier()
    with torch.no_grad():
        return frechet_distance(judge.features(outputs.float()), judge.features(dense.float()))
