"""Judges what the demo models draw: the class by the classifier, and what a caption asks for by the nearest drawing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..core.files import whole_file
from ..lab.demo_models.captions import any_motif, caption
from ..lab.demo_models.classifier import IconClassifier, accuracy
from ..lab.demo_models.model import DemoFlowPipeline
from ..lab.demo_models.pictures import BACKGROUNDS, CLASSES, COLOURS, Motif, as_tensor, draw_motif
from ..lab.demo_models.pipeline import IconPipeline, to_pil

MOTIFS = tuple(Motif(*words) for words in product(CLASSES, COLOURS, BACKGROUNDS))
"""All that a caption can ask for."""


@dataclass(frozen=True)
class Samples:
    """Pictures of a demo model.

    Args:
        pipe: of the model.
        guidance: scale of classifier-free guidance.
        seed: of the noise, and of the captions.

    Example:
        >>> from ..lab.demo_models.model import load_demo
        >>> Samples(load_demo("dit"), guidance=3.0, seed=0).of(["sun"], steps=1).shape
        torch.Size([1, 3, 64, 64])
    """

    pipe: IconPipeline
    guidance: float
    seed: int

    def of(self, prompts: list[str], steps: int) -> torch.Tensor:
        """Draw pictures [B, 3, 64, 64] in 0..1.

        Args:
            prompts: class names or captions.
            steps: of the scheduler.
        """
        self.pipe.set_progress_bar_config(disable=True)
        how = {"guidance_scale": self.guidance, "generator": torch.Generator().manual_seed(self.seed)}
        call = partial(self.pipe, num_inference_steps=steps, output_type="pt", return_dict=False, **how)
        return torch.cat([call(prompts[at : at + 50])[0] for at in range(0, len(prompts), 50)])

    def grid(self, count: int, steps: int) -> torch.Tensor:
        """What a sample grid shows: captions in all colours for the flow model, else class names. The classes take turns.

        Args:
            count: of pictures.
            steps: of the scheduler.
        """
        captions = [caption(motif) for motif in motifs(count, self.seed)]
        return self.of(captions if isinstance(self.pipe, DemoFlowPipeline) else names(count), steps)

    def report(self, judge: IconClassifier, count: int) -> dict[str, Any]:
        """The shares of pictures that are right: at 50 and 20 steps; for the flow model captions at 20 steps, too.

        Args:
            judge: names the classes.
            count: of pictures.
        """
        found: dict[str, Any] = {"samples": count, "guidance": self.guidance}
        found["sampler"] = f"{type(self.pipe.scheduler).__name__}, 50 steps"
        for steps, suffix in ((50, ""), (20, "_20_steps")):
            found[f"sample_accuracy{suffix}"] = named_right(judge, self.of(names(count), steps))
        if isinstance(self.pipe, DemoFlowPipeline):
            found["captions_20_steps"] = as_asked(motifs(count, self.seed), self.grid(count, 20))
        return found


def names(count: int) -> list[str]:
    """Class names; they take turns.

    Example:
        >>> names(2)
        ['sun', 'moon']
    """
    return [CLASSES[place % len(CLASSES)] for place in range(count)]


def motifs(count: int, seed: int) -> list[Motif]:
    """Motifs in all colours; the classes take turns.

    Args:
        count: of motifs.
        seed: of their colours and backgrounds.

    Example:
        >>> [motif.name for motif in motifs(2, seed=0)]
        ['sun', 'moon']
    """
    rng = np.random.default_rng(seed)
    return [any_motif(name, rng) for name in names(count)]


def named_right(judge: IconClassifier, pictures: torch.Tensor) -> float:
    """Share of pictures [B, 3, 64, 64] that the classifier names right. Their classes take turns.

    Args:
        judge: the classifier.
        pictures: in 0..1.
    """
    return accuracy(judge, pictures, torch.arange(len(pictures)) % len(CLASSES))


def seen(pictures: torch.Tensor) -> list[Motif]:
    """The motif of each picture: that of the nearest drawing, in mean square.

    Args:
        pictures: [B, 3, 64, 64] in 0..1.

    Example:
        >>> motif = Motif("boat", "green", "teal")
        >>> seen(as_tensor([draw_motif(motif)]) / 255) == [motif]
        True
    """
    return [MOTIFS[place] for place in torch.cdist(pictures.float().flatten(1), _drawn()).argmin(1).tolist()]


@cache
def _drawn() -> torch.Tensor:
    """All motifs, [N, C * H * W] in 0..1."""
    return as_tensor([draw_motif(motif) for motif in MOTIFS]).float().flatten(1) / 255


def as_asked(asked: list[Motif], pictures: torch.Tensor) -> dict[str, float]:
    """How often pictures show the class, colour and background that were asked for, and all three.

    Args:
        asked: the motif of each picture.
        pictures: [B, 3, 64, 64] in 0..1.

    Example:
        >>> drawn = as_tensor([draw_motif(motif) for motif in motifs(2, seed=0)]) / 255
        >>> as_asked(motifs(2, seed=0), drawn)
        {'name': 1.0, 'colour': 1.0, 'background': 1.0, 'all': 1.0}
    """
    pairs = list(zip(asked, seen(pictures), strict=True))
    parts = {
        part: [getattr(a, part) == getattr(f, part) for a, f in pairs] for part in ("name", "colour", "background")
    }
    return {part: sum(hits) / len(pairs) for part, hits in {**parts, "all": [a == f for a, f in pairs]}.items()}


def save_grid(pictures: torch.Tensor, path: Path) -> None:
    """Write pictures as a grid with one column per class.

    Args:
        pictures: [B, 3, H, W] in 0..1; B is a multiple of the number of classes.
        path: of the PNG file.
    """
    rows = pictures.unflatten(0, (-1, len(CLASSES)))
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    with whole_file(path) as part:
        to_pil(F.interpolate(sheet[None], scale_factor=2))[0].save(part)
