"""The files of the demo models' weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

WEIGHTS = {
    "unet": Path(__file__).with_name("icons_unet.safetensors"),
    "dit": Path(__file__).with_name("icons_dit.safetensors"),
    "flow": Path(__file__).with_name("icons_flow.safetensors"),
}


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configs and the tensors of a file, which holds half precision.

    Args:
        path: of the file.

    Example:
        >>> config, tensors = read_weights(WEIGHTS["unet"])
        >>> config["unet"]["block_out_channels"], len(tensors)
        ([32, 64, 112], 327)
    """
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["config"]), {name: file.get_tensor(name) for name in file.keys()}
