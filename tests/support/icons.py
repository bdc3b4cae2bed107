"""The demo's models a few channels wide, with random weights, in files: what they draw is noise, in a tenth of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from skipstone.lab.demo_models import model as demo_models

NARROW: dict[str, dict[str, Any]] = {
    "unet": {
        **demo_models.UNET_CONFIG,
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    },
    "dit": {**demo_models.DIT_CONFIG, "attention_head_dim": 8, "num_layers": 4},
    "flow": {
        **demo_models.FLOW_CONFIG,
        "attention_head_dim": 8,
        "axes_dims_rope": (2, 2, 4),
        "num_single_layers": 2,
    },
}
"""No attention at the latent's own thousand tokens, which takes most of the time."""


def save_narrow(folder: Path) -> dict[str, Path]:
    """Write all; `load_demo` reads them."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, config in NARROW.items():
            patch.setitem(demo_models.CONFIGS, kind, {**demo_models.CONFIGS[kind], kind: config})
        return {kind: _save(kind, folder / f"{kind}.safetensors") for kind in NARROW}


def _save(kind: str, path: Path) -> Path:
    weights = tiny.randomise(demo_models.pipeline_modules(demo_models.new_pipeline(kind))).state_dict()
    demo_models.save_demo(kind, weights, path, {})
    return path
