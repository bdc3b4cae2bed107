"""Features of pictures in files, for Fréchet distances: of Inception (FID), or of the classifier that is shipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.errors import RecipeError

Features = Callable[[Tensor], Tensor]
"""Pictures [B, 3, H, W] in 0..1 -> features [B, D]."""
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_BATCH = 32


def inception(weights: Path, device: str) -> Features:
    """Return the features of FID. Needs torch-fidelity.

    Args:
        weights: the file of torch-fidelity's Inception.
        device: where it runs.

    Raises :class:`RecipeError` without the package or for another file.

    Example:
        >>> inception(Path("no such file"), "cpu")
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no Inception weights at 'no such file': ...
    """
    if not weights.is_file():
        raise RecipeError(
            f"no Inception weights at {str(weights)!r}: download pt_inception-2015-12-05-6726825d.pth of torch-fidelity"
        )
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        network = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights)).inception.to(
            device
        )
    except Exception as error:  # missing packages and broken files raise many kinds
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RecipeError(
            f"{str(weights)!r} cannot be used for FID ({reason[0]}): pip install torch-fidelity"
        ) from None
    return lambda pictures: network((pictures * 255).round().byte().to(device)).float().cpu()


def shipped() -> Features:
    """Return the features of the classifier of the demo's models. They tell 64 x 64 icons apart, not photographs.

    Example:
        >>> shipped()(torch.zeros(2, 3, 64, 64)).shape[0]
        2
    """
    from ..demo_models.classifier import load_classifier

    return load_classifier().features


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder and of the folders in it, sorted.

    Args:
        folder: where to look.

    Raises :class:`RecipeError` if there is none.

    Example:
        >>> pictures_in(Path("no such folder"))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no pictures (.png, .jpg, .jpeg, .webp) in 'no such folder'
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise RecipeError(f"no pictures ({', '.join(_SUFFIXES)}) in {str(folder)!r}")
    return found


def batches_of(paths: Sequence[Path], size: tuple[int, int] | None = None) -> Iterator[Tensor]:
    """Yield pictures [B, 3, H, W] in 0..1.

    Args:
        paths: of the pictures.
        size: width and height that all get; those of the first picture if None.

    Example:
        >>> list(batches_of([]))
        []
    """
    for at in range(0, len(paths), _BATCH):
        batch = []
        for path in paths[at : at + _BATCH]:
            image = Image.open(path).convert("RGB")
            size = size or image.size
            batch.append(np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)))
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def features_of(paths: Sequence[Path], features: Features, size: tuple[int, int]) -> Tensor:
    """Return the features of pictures in files [N, D].

    Args:
        paths: of the pictures.
        features: of a batch.
        size: width and height that all get first.

    Example:
        >>> features_of([], shipped(), (64, 64)).shape
        torch.Size([0])
    """
    found = [features(batch) for batch in batches_of(paths, size)]
    return torch.cat(found) if found else torch.empty(0)
