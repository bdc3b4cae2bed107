"""Writes the shipped U-Net as a checkpoint that AUTOMATIC1111 loads: `python -m skipstone.tools.webui_checkpoint FOLDER`.

FOLDER is the web UI's models/Stable-diffusion. The config beside the checkpoint names classes of this extension, so that the
model works where Skipstone is installed. Prompts are names of classes; 256 x 256 pixels, CFG 3, Euler.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.files import write_safetensors, write_text
from ..lab.demo_models.weights import WEIGHTS, read_weights

NAME = "skipstone_icons"
_CLASSES = "_skipstone_webui.tools.webui_model"
"""The module as the web UI imports it: `scripts/skipstone.py` has bound this package to the extension's folder."""

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def blocks(levels: int = 3, attention: tuple[bool, ...] = (True, True, False)) -> dict[str, str]:
    """Blocks of diffusers' U-Net of one layer a level -> those of `ldm`'s.

    Args:
        levels: number of levels.
        attention: whether a level has it.
    """
    last = levels - 1
    found = {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    found |= {"mid_block.resnets.1": "middle_block.2"}
    for n in range(levels):
        down, up = f"down_blocks.{n}", f"up_blocks.{n}"
        found |= {
            f"{down}.resnets.0": f"input_blocks.{2 * n + 1}.0",
            f"{down}.attentions.0": f"input_blocks.{2 * n + 1}.1",
        }
        found |= {f"{down}.downsamplers.0.conv": f"input_blocks.{2 * n + 2}.0.op"}
        for k in range(2):
            found |= {
                f"{up}.{what}.{k}": f"output_blocks.{2 * n + k}.{m}" for m, what in enumerate(("resnets", "attentions"))
            }
        place = 2 if attention[last - n] else 1
        found |= {f"{up}.upsamplers.0.conv": f"output_blocks.{2 * n + 1}.{place}.conv"}
    return found


def ldm_name(name: str) -> str:
    """The name of a weight in `ldm`'s U-Net.

    Args:
        name: in diffusers' U-Net.
    """
    for theirs, ours in {**_ENDS, **blocks()}.items():
        if name.startswith(theirs + "."):
            inner = name.removeprefix(theirs + ".")
            part, dot, rest = inner.partition(".")
            return f"{ours}.{_RESNET.get(part, part) if '.resnets.' in theirs else part}{dot}{rest}"
    raise KeyError(name)


def config(given: dict[str, Any]) -> dict[str, Any]:
    """The config that the web UI reads beside the checkpoint.

    Args:
        given: config of the shipped file.
    """
    unet = given["unet"]
    sizes = {
        "widths": unet["block_out_channels"],
        "heads": unet["attention_head_dim"],
        "image_size": unet["sample_size"],
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "num_res_blocks": 1,
        "attention_resolutions": [1, 2],
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": unet["cross_attention_dim"],
        "use_checkpoint": False,
        "legacy": False,
    }
    model = {
        "parameterization": "v",
        "beta_schedule": "sqrt_linear",  # a straight line in `ldm`'s terms
        "linear_start": 1e-4,
        "linear_end": 2e-2,
        "timesteps": 1000,
        "first_stage_key": "image",
        "cond_stage_key": "caption",
        "image_size": unet["sample_size"],
        "channels": unet["in_channels"],
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "scale_factor": 1.0,
        "use_ema": False,
        "unet_config": _part("UNetModel", sizes),
        "first_stage_config": _part("Pixels", {"ddconfig": {}}),
        "cond_stage_config": _part("IconPrompts", {}),
    }
    return {"model": _part("IconModel", model)}


def _part(name: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"target": f"{_CLASSES}.{name}", "params": params}


def state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors by name.

    Args:
        tensors: of the shipped file.
    """
    found = {}
    for name, tensor in tensors.items():
        part, _, inner = name.partition(".")
        where = f"model.diffusion_model.{ldm_name(inner)}" if part == "unet" else f"cond_stage_model.{inner}"
        found[where] = tensor.clone()
    return found


def write(folder: Path) -> Path:
    """Write checkpoint and config; the checkpoint's path.

    Args:
        folder: the web UI's models/Stable-diffusion.
    """
    given, tensors = read_weights(WEIGHTS["unet"])
    path = folder / f"{NAME}.safetensors"
    write_safetensors(path, state(tensors), {})
    write_text(path.with_suffix(".yaml"), json.dumps(config(given), indent=2))  # JSON is YAML
    return path


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
