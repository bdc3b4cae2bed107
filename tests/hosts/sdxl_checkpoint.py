"""Writes a tiny SDXL checkpoint with random weights, which AUTOMATIC1111 loads as SDXL: its classes, their keys, its conditioner.

    cd WEBUI && PYTHON -m ... tests/hosts/sdxl_checkpoint.py CLIP FOLDER

Run it with the web UI's Python in the web UI's folder. CLIP is a folder with a CLIP text model and its tokenizer, as
`transformers` saves them. FOLDER gets `tiny-sdxl.safetensors` and the config that the web UI finds beside it, in which the
network and the text models are small.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

NAME = "tiny-sdxl"
_OPEN_CLIP, _WIDE, _SIZES = "ViT-S-32-alt", 256, 32
"""The smallest text model that OpenCLIP names, its width, and the width of the embedding of a size."""
_NOISE = 0.5
"""Standard deviation of the predicted noise: with it, every sampler stays finite."""


def config(webui: Path, clip: Path, narrow: int) -> dict[str, object]:
    """The web UI's config of SDXL, made small. narrow: width of the text model in `clip`."""
    from omegaconf import OmegaConf

    found = OmegaConf.load(webui / "repositories" / "generative-models" / "configs" / "inference" / "sd_xl_base.yaml")
    parts = found.model.params
    network = parts.network_config.params
    network.update(model_channels=32, num_head_channels=16, transformer_depth=[1, 1, 2], context_dim=narrow + _WIDE)
    network.update(adm_in_channels=_WIDE + 6 * _SIZES, use_checkpoint=False, spatial_transformer_attn_type="softmax")
    first, second, *sizes = parts.conditioner_config.params.emb_models
    first.params.update(version=str(clip), layer="hidden", layer_idx=1)
    second.params.update(arch=_OPEN_CLIP, version="")
    for size in sizes:
        size.params.outdim = _SIZES
    parts.first_stage_config.params.ddconfig.update(ch=32, num_res_blocks=1, attn_type="vanilla")
    return found


def write(webui: Path, clip: Path, folder: Path) -> None:
    """Make the model of the config, give it weights that draw something, and save both."""
    sys.path[:0] = [
        str(webui / "repositories" / name) for name in ("generative-models", "stable-diffusion-stability-ai")
    ]
    from omegaconf import OmegaConf
    from safetensors.torch import save_file
    from sgm.util import instantiate_from_config
    from transformers import CLIPTextConfig

    made = config(webui, clip, CLIPTextConfig.from_pretrained(str(clip)).hidden_size)
    torch.manual_seed(0)
    model = instantiate_from_config(made.model)
    network = model.model.diffusion_model.eval()
    for weight in network.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    scale(network, made.model.params.network_config.params)
    state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / f"{NAME}.safetensors")
    OmegaConf.save(made, folder / f"{NAME}.yaml")
    print(f"{sum(value.numel() for value in state.values()) / 1e6:.1f} M weights in {folder / NAME}")


@torch.no_grad()
def scale(network: torch.nn.Module, settings: object) -> None:
    """Give the network's output the size of noise."""
    x, t = torch.randn(2, 4, 16, 16), torch.tensor([500, 500])
    context, sizes = torch.randn(2, 77, settings.context_dim), torch.randn(2, settings.adm_in_channels)
    size = network(x, t, context=context, y=sizes).std()
    for weight in network.out[2].parameters():
        weight.mul_(_NOISE / size)


if __name__ == "__main__":
    write(Path.cwd(), Path(sys.argv[1]), Path(sys.argv[2]))
