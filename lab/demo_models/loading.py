"""Models by name: the shipped ones and the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...core.errors import ModelError
from ...pipelines.loading import SUFFIX, load_pipeline, loaded
from .model import load_demo

DEMO = "demo"
DEMOS = {DEMO: "unet", "demo-dit": "dit", "demo-flow": "flow"}
"""Names of the shipped models, and their kinds."""


def load_model(model: str, device: str = "cpu", half: bool = False, config: Path | None = None) -> Any:
    """Load a diffusers pipeline.

    Args:
        model: "demo", "demo-dit" or "demo-flow", a diffusers folder, or a single checkpoint file.
        device: for the weights.
        half: in fp16.
        config: for a single file, a local diffusers folder of the same kind of model.

    Raises :class:`ModelError` if there is none or it cannot be read.

    Example:
        >>> type(load_model("demo-dit")).__name__
        'DemoDiTPipeline'
    """
    if model in DEMOS:
        dtype = torch.float16 if half else torch.float32
        return loaded(lambda: load_demo(DEMOS[model], device=device, dtype=dtype), model)
    if not Path(model).exists():
        names = ", ".join(map(repr, DEMOS))
        raise ModelError(f"no model at {model!r}: give {names}, a diffusers folder or a {SUFFIX} checkpoint")
    return load_pipeline(model, device, half, config)
