"""Networks of the real sizes with random weights, loaded as ComfyUI loads a file of them, and a KSampler that is timed."""

import gc
import json
import sys
import time

import comfy.model_detection
import comfy.model_management
import comfy.sd
import torch

import nodes

from .configs import CONFIGS

FULL = {
    "SD1.5": {
        **CONFIGS["SD1.5"], "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "SDXL": {
        **CONFIGS["SDXL"], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    },
    "Flux": {
        **CONFIGS["Flux"], "hidden_size": 3072, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
        "guidance_embed": True, "txt_ids_dims": [],
    },
}  # fmt: skip
"""Kind -> config, as ComfyUI reads it from the file of the released network."""
SMALL = {
    "SD1.5": CONFIGS["SD1.5"],
    "SDXL": CONFIGS["SDXL"],
    "Flux": {**FULL["Flux"], "hidden_size": 256, "num_heads": 2, "depth": 2, "depth_single_blocks": 2},
}
"""For a look whether the measurement runs."""
DTYPES = {"SD1.5": torch.float16, "SDXL": torch.float16, "Flux": torch.bfloat16}

TIMED = {
    "model": ("MODEL",), "positive": ("CONDITIONING",), "negative": ("CONDITIONING",), "latent_image": ("LATENT",),
    "seed": ("INT",), "steps": ("INT",), "cfg": ("FLOAT",), "sampler_name": ("STRING",), "scheduler": ("STRING",),
    "clean": ("BOOLEAN",),
}  # fmt: skip
"""What the timed KSampler takes."""

_loaded = {}


def _shapes(settings):
    """The tensors of a network, without their values. With dynamic VRAM layers have none before a file is loaded."""
    memory = sys.modules.get("comfy.memory_management")
    lazy = getattr(memory, "aimdo_enabled", False)
    if lazy:
        memory.aimdo_enabled = False
    try:
        return settings.get_model({}, "", device="meta").diffusion_model.state_dict()
    finally:
        if lazy:
            memory.aimdo_enabled = True


def _weights(config, dtype):
    """The tensors of a file: drawn on the device, which is fast, and held in memory."""
    settings = comfy.model_detection.model_config_from_unet_config(config)
    settings.set_inference_dtype(dtype, None)
    device = comfy.model_management.get_torch_device()
    generator = torch.Generator(device).manual_seed(1)
    found = {}
    for name, like in _shapes(settings).items():
        tensor = torch.empty(like.shape, dtype=dtype, device=device)
        if like.ndim >= 2:
            tensor.normal_(0.0, like[0].numel() ** -0.5, generator=generator)
        else:
            tensor.fill_(float(name.endswith(("weight", "scale"))))
        found[name] = tensor.cpu()
    return found


def full(kind, small):
    """A network of a kind, the same one every time. Another one before it is let go."""
    if (kind, small) not in _loaded:
        _loaded.clear()
        comfy.model_management.unload_all_models()
        gc.collect()
        weights = _weights(dict((SMALL if small else FULL)[kind]), DTYPES[kind])
        _loaded[kind, small] = comfy.sd.load_diffusion_model_state_dict(weights)
    return (_loaded[kind, small],)


def _device_memory(cuda):
    """MiB at the peak of what torch allocated and reserved, and MiB that are taken of the whole device now."""
    if not cuda:
        return {}
    free, total = torch.cuda.mem_get_info()
    held = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return {name: count / 2**20 for name, count in {**held, "device": total - free}.items()}


def timed(model, latent_image, positive, negative, clean, **sampling):
    """KSampler, its seconds and its memory. clean: what earlier runs left of free memory is given back before."""
    cuda = comfy.model_management.get_torch_device().type == "cuda"
    if clean:
        gc.collect()
        comfy.model_management.soft_empty_cache(True)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    (drawn,) = nodes.common_ksampler(model, positive=positive, negative=negative, latent=latent_image, **sampling)
    if cuda:
        torch.cuda.synchronize()
    text = json.dumps({"seconds": time.perf_counter() - began, **_device_memory(cuda)})
    return {"ui": {"text": [text]}, "result": (drawn,)}
