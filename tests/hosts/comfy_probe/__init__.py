"""A ComfyUI pack for the tests: tiny random models of real classes, a cancel button, and looks at what a run left behind."""

from __future__ import annotations

import hashlib

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ldm.flux.model
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from aiohttp import web
from server import PromptServer

_UNET = {
    "use_checkpoint": False, "image_size": 32, "out_channels": 4, "in_channels": 4, "use_spatial_transformer": True,
    "legacy": False, "model_channels": 320, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
CONFIGS = {
    "SD1.5": {
        **_UNET, "adm_in_channels": None, "use_linear_in_transformer": False, "context_dim": 768, "num_heads": 8,
        "num_res_blocks": [1, 1], "channel_mult": [1, 1], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1],
    },
    "SDXL": {
        **_UNET, "num_classes": "sequential", "adm_in_channels": 2816, "use_linear_in_transformer": True,
        "context_dim": 2048, "num_head_channels": 64, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 1, 1],
        "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": -1,
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    },
    "PixArt": {
        "image_model": "pixart_sigma", "micro_condition": False, "num_heads": 16, "patch_size": 2, "hidden_size": 1152,
        "in_channels": 4, "depth": 2, "model_max_length": 300,
    },
    "SD3": {
        "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 2048,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
        "num_patches": 36864, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None,
        "x_block_self_attn_layers": [],
    },
    "Flux": {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768, "theta": 10000,
        "context_in_dim": 4096, "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "qkv_bias": True,
        "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "guidance_embed": False,
    },
}  # fmt: skip
"""The smallest networks that ComfyUI recognises as these models."""

if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:
    CONFIGS["Flux"]["txt_ids_dims"] = []

CONTEXT = {"SD1.5": (768, 0), "SDXL": (2048, 1280), "PixArt": (4096, 0), "SD3": (4096, 2048), "Flux": (4096, 768)}
_models = {}


def _randomise(module):
    generator = torch.Generator().manual_seed(1)
    for name, p in [*module.named_parameters(), *module.named_buffers()]:
        with torch.no_grad():
            if p.ndim >= 2:
                p.copy_(torch.randn(p.shape, generator=generator) * p[0].numel() ** -0.5)
            elif p.is_floating_point():
                p.copy_(torch.full(p.shape, float(name.endswith("weight"))))


def _build(kind):
    config = comfy.model_detection.model_config_from_unet_config(dict(CONFIGS[kind]))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    _randomise(model.diffusion_model)
    load, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load, offload)


def _node(function, returns, inputs, output=False):
    attributes = {
        "INPUT_TYPES": classmethod(lambda cls: {"required": inputs}),
        "RETURN_TYPES": returns,
        "FUNCTION": "run",
        "CATEGORY": "probe",
        "OUTPUT_NODE": output,
        "run": lambda self, **kwargs: function(**kwargs),
    }
    return type(function.__name__, (), attributes)


def model(kind):
    """The same object every time, so that leftovers would show in later runs."""
    if kind not in _models:
        _models[kind] = _build(kind)
    return (_models[kind],)


def conditioning(kind, tokens, rng):
    """Random text."""
    channels, pooled = CONTEXT[kind]
    generator = torch.Generator().manual_seed(rng)
    extra = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
    return ([[torch.randn(1, tokens, channels, generator=generator), extra]],)


def lora(model):
    """Weights changed as a LoRA changes them, in the first self-attention."""
    clone = model.clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_v.weight"
    added = torch.randn(320, 320, generator=torch.Generator().manual_seed(4)) * 0.05
    assert clone.add_patches({key: ("diff", (added,))}) == [key]
    return (clone,)


def cancel(model, call):
    """Raises what the cancel button raises, in the middle of the network, at the n-th cross-attention of a run."""
    left = [call]

    def patch(n, context, value, options):
        left[0] -= 1
        if left[0] == 0:
            raise comfy.model_management.InterruptProcessingException
        return n, context, value

    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    return (clone,)


def controlnet():
    """A ControlNet for "SD1.5", random."""
    config = {k: v for k, v in CONFIGS["SD1.5"].items() if k not in ("out_channels", "transformer_depth_output")}
    net = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    _randomise(net)
    return (comfy.controlnet.ControlNet(net, load_device=comfy.model_management.get_torch_device()),)


def digest(samples):
    """Fingerprint of a latent, and whether it is finite."""
    x = samples["samples"].float().contiguous().cpu()
    text = hashlib.sha256(x.numpy().tobytes()).hexdigest() if torch.isfinite(x).all() else "not finite"
    return {"ui": {"text": [text]}}


def leftovers(model, samples):
    """Whatever stands on the network's modules that a fresh one has not."""
    found = []
    for name, module in model.model.diffusion_model.named_modules():
        hooks = [k for k, v in module.__dict__.items() if "hook" in k and v]
        if hooks or "forward" in module.__dict__ or "skipstone" in str(list(module.__dict__)).lower():
            found.append(name or "root")
    return {"ui": {"text": [", ".join(found)]}}


_KIND = (list(CONFIGS),)
_INT = ("INT", {"default": 1, "max": 2**31})
NODE_CLASS_MAPPINGS = {
    "ProbeModel": _node(model, ("MODEL",), {"kind": _KIND}),
    "ProbeConditioning": _node(conditioning, ("CONDITIONING",), {"kind": _KIND, "tokens": _INT, "rng": _INT}),
    "ProbeLora": _node(lora, ("MODEL",), {"model": ("MODEL",)}),
    "ProbeCancel": _node(cancel, ("MODEL",), {"model": ("MODEL",), "call": _INT}),
    "ProbeControlNet": _node(controlnet, ("CONTROL_NET",), {}),
    "ProbeDigest": _node(digest, (), {"samples": ("LATENT",)}, output=True),
    "ProbeLeftovers": _node(leftovers, (), {"model": ("MODEL",), "samples": ("LATENT",)}, output=True),
}

_texts = []


def _listen():
    server = PromptServer.instance
    send = server.send_progress_text

    def send_progress_text(text, node_id, sid=None):
        _texts.append([node_id, text])
        send(text, node_id, sid)

    server.send_progress_text = send_progress_text

    @server.routes.get("/probe/texts")
    async def texts(request):
        answer = web.json_response(list(_texts))
        _texts.clear()
        return answer


_listen()
