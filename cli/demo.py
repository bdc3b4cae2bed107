"""`skipstone demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.calibrate.masks.settings import TrainSettings
from ..core.calibrate.masks.trainer import Trained
from ..lab.demo.mask import run_mask_demo
from ..lab.demo.options import DemoOptions
from ..lab.demo.run import run_demo
from .train_mask import TrainMask, train_mask


def demo(options: DemoOptions) -> dict[str, Any]:
    """Draw; with `--mask`, by a mask trained on the spot. Raises :class:`RecipeError` for options that cannot run.

    Example:
        >>> demo(DemoOptions(steps=1))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: the demo needs --steps of at least 2 and --rounds of at least 1
    """
    options.check()
    return run_mask_demo(options, _trained) if options.mask else run_demo(options)


def _trained(options: DemoOptions, settings: TrainSettings, folder: Path) -> Trained:
    return train_mask(TrainMask("demo-dit", settings, options.calls, device=options.device, out=folder))
