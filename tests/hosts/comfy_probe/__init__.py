"""A ComfyUI pack for the tests: tiny random models of real classes, a cancel button, and looks at what a run did and left."""

from __future__ import annotations

import hashlib
import os

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import folder_paths
import torch
from aiohttp import web
from comfy_api.torch_helpers import set_torch_compile_wrapper
from safetensors.torch import save_file
from server import PromptServer

from .configs import CONFIGS, CONTEXT, LATENTS, MASKED, config
from .families import FAMILIES
from .full import FULL, TIMED, full, timed
from .low_memory import layer_by_layer
from .patches import PATCHES, patch, t2i, vae
from .state import marks, state
from .stored import DTYPES, WAYS, with_lora, wrap

_models, _static = {}, {}
_rows = {"network": 0, "control": 0}
"""Rows that ran in this prompt. ComfyUI batches conds as the free memory allows, so forwards vary."""


def _counting(name, function):
    def forward(*args, **kwargs):
        _rows[name] += len(args[0] if args else kwargs["x"])
        return function(*args, **kwargs)

    return forward


def _randomise(module):
    generator = torch.Generator().manual_seed(1)
    for name, p in [*module.named_parameters(), *module.named_buffers()]:
        with torch.no_grad():
            if p.ndim >= 2:
                p.copy_(torch.randn(p.shape, generator=generator) * p[0].numel() ** -0.5)
            elif p.is_floating_point():
                p.copy_(torch.full(p.shape, float(name.endswith(("weight", "scale")))))


def _settings(kind):
    """What ComfyUI knows of a kind; it sets some sizes itself, for which these networks are too small."""
    if kind not in FAMILIES:
        return comfy.model_detection.model_config_from_unet_config(config(kind))
    given = FAMILIES[kind]
    settings = (
        getattr(comfy.supported_models, given.of)(dict(given.config))
        if given.of
        else comfy.model_detection.model_config_from_unet_config(dict(given.config))
    )
    settings.unet_config.update(given.config)
    return settings


def _build(kind, way="fp32", patcher=None):
    """patcher: class of what holds the network; by default the one that ComfyUI's loaders use on this device."""
    settings = _settings(kind)
    settings.set_inference_dtype(*DTYPES.get(way, (torch.float32, None)))
    model = settings.get_model({}, "")
    _randomise(model.diffusion_model)
    if way == "wrapped":
        wrap(model.diffusion_model)
    model._apply_model = _counting("network", model._apply_model)
    load, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    usual = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return (patcher or usual)(model, load, offload)


def _node(function, returns, inputs, output=False, optional=None):
    attributes = {
        "INPUT_TYPES": classmethod(lambda cls: {"required": inputs, "optional": optional or {}}),
        "RETURN_TYPES": returns,
        "FUNCTION": "run",
        "CATEGORY": "probe",
        "OUTPUT_NODE": output,
        "run": lambda self, **kwargs: function(**kwargs),
    }
    return type(function.__name__, (), attributes)


def model(kind):
    """The same object every time, so that leftovers would show in later runs."""
    _rows.update(network=0, control=0)
    if kind not in _models:
        _models[kind] = _build(kind)
    return (_models[kind],)


def stored(kind, way):
    """The network as it is stored or loaded in one way; the same object every time."""
    _rows.update(network=0, control=0)
    if (kind, way) not in _models:
        found = _build(kind, way)
        _models[kind, way] = with_lora(found, way == "bypass lora") if "lora" in way else found
    return (_models[kind, way],)


def conditioning(kind, tokens, rng):
    """Random text."""
    given = FAMILIES.get(kind)
    channels, pooled = (given.text, given.pooled) if given else CONTEXT[kind]
    generator = torch.Generator().manual_seed(rng)
    extra = {"pooled_output": torch.randn(1, pooled, generator=generator)} if pooled else {}
    for name, shape in given.extras.items() if given else ():
        mask = "mask" in name
        extra[name] = torch.ones(shape, dtype=torch.long) if mask else torch.randn(shape, generator=generator)
    if kind in MASKED:
        extra["attention_mask"] = torch.ones(1, tokens, dtype=torch.long)
    return ([[torch.randn(1, tokens, channels, generator=generator), extra]],)


def latent(kind, height=0, width=0, batch=1, rng=0):
    """An empty latent, or with rng a random one: of the kind's own size, or of another one in latent pixels."""
    shape = list(FAMILIES[kind].latent if kind in FAMILIES else LATENTS[kind])
    shape[0], shape[-2], shape[-1] = batch * shape[0], height or shape[-2], width or shape[-1]
    samples = torch.randn(shape, generator=torch.Generator().manual_seed(rng)) if rng else torch.zeros(shape)
    return ({"samples": samples},)


def _estimating(model):
    """The same network again in a patcher of the older kind, which decides by estimates what stays on the device."""
    kind = next(kind for kind, one in _models.items() if one.model is model.model)
    if kind not in _static:
        _static[kind] = _build(kind, patcher=comfy.model_patcher.ModelPatcher)
    clone = _static[kind].clone()
    clone.patches, clone.patches_uuid = dict(model.patches), model.patches_uuid
    return clone


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


def interrupt(model, call):
    """Presses the cancel button, without a word, at the n-th cross-attention from now on."""
    left = [call]

    def patch(n, context, value, options):
        left[0] -= 1
        if left[0] == 0:
            comfy.model_management.interrupt_current_processing()
        return n, context, value

    clone = model.clone()
    clone.set_model_attn2_patch(patch)
    return (clone,)


def low_vram(model):
    """Weights are brought to the device layer by layer."""
    return (layer_by_layer(model, _estimating),)


def compiled(model):
    """As the node for torch.compile, whose backends need a compiler."""
    clone = model.clone()
    set_torch_compile_wrapper(model=clone, backend="eager")
    return (clone,)


def controlnet(kind="SD1.5"):
    """A ControlNet for a U-Net, random."""
    given = FAMILIES[kind].config if kind in FAMILIES else CONFIGS[kind]
    config = {k: v for k, v in given.items() if k not in ("out_channels", "transformer_depth_output")}
    net = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=comfy.ops.disable_weight_init)
    _randomise(net)
    net.forward = _counting("control", net.forward)
    return (comfy.controlnet.ControlNet(net, load_device=comfy.model_management.get_torch_device()),)


def digest(samples):
    """Fingerprint of a latent, and whether it is finite."""
    x = samples["samples"].float().contiguous().cpu()
    text = hashlib.sha256(x.numpy().tobytes()).hexdigest() if torch.isfinite(x).all() else "not finite"
    return {"ui": {"text": [text]}}


def forward(model, positive, at):
    """Saves what the network returns for seeded noise at a time: output/forward.safetensors."""
    (context, more), network = positive[0], model.model.diffusion_model
    x = torch.randn(2, 12, 32, 32, generator=torch.Generator().manual_seed(0))
    pooled = more.get("pooled_output")
    extra = {} if pooled is None else {"y": pooled.expand(2, -1)}
    out = network(x, torch.full((2,), at), context=context.expand(2, -1, -1), **extra)
    path = os.path.join(folder_paths.get_output_directory(), "forward.safetensors")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    save_file({"input": x, "output": out}, path)
    return {"ui": {"text": [path]}}


def save(model):
    """Saves the network as models/diffusion_models/probe.safetensors, for ComfyUI's own loader."""
    found = [one for one in folder_paths.get_folder_paths("diffusion_models") if one.endswith("diffusion_models")]
    os.makedirs(found[0], exist_ok=True)
    tensors = {name: one.contiguous() for name, one in model.model.diffusion_model.state_dict().items()}
    save_file(tensors, os.path.join(found[0], "probe.safetensors"))
    return {"ui": {"text": ["probe.safetensors"]}}


def counts(samples, other):
    """Rows of the network and of the ControlNet, and the relative distance of two latents."""
    x, y = samples["samples"].float(), other["samples"].float()
    return {"ui": {"text": [f"{_rows['network']} {_rows['control']} {float((x - y).norm() / y.norm()):.6f}"]}}


def leftovers(model, samples):
    """Whatever stands on the network's modules that a fresh one has not."""
    return {"ui": {"text": [", ".join(marks(model.model.diffusion_model))]}}


_KIND = ([*CONFIGS, *FAMILIES],)
_INT = ("INT", {"default": 1, "max": 2**31})
NODE_CLASS_MAPPINGS = {
    "ProbeModel": _node(model, ("MODEL",), {"kind": _KIND}),
    "ProbeStored": _node(stored, ("MODEL",), {"kind": _KIND, "way": (list(WAYS),)}),
    "ProbeConditioning": _node(conditioning, ("CONDITIONING",), {"kind": _KIND, "tokens": _INT, "rng": _INT}),
    "ProbeLatent": _node(
        latent,
        ("LATENT",),
        {"kind": ([*LATENTS, *FAMILIES],)},
        optional=dict.fromkeys(("height", "width", "batch", "rng"), _INT),
    ),
    "ProbeLowVram": _node(low_vram, ("MODEL",), {"model": ("MODEL",)}),
    "ProbeCompiled": _node(compiled, ("MODEL",), {"model": ("MODEL",)}),
    "ProbeFull": _node(full, ("MODEL",), {"kind": (list(FULL),), "small": ("BOOLEAN",)}),
    "ProbeTimed": _node(timed, ("LATENT",), TIMED, output=True),
    "ProbeLora": _node(lora, ("MODEL",), {"model": ("MODEL",)}),
    "ProbeCancel": _node(cancel, ("MODEL",), {"model": ("MODEL",), "call": _INT}),
    "ProbeInterrupt": _node(interrupt, ("MODEL",), {"model": ("MODEL",), "call": _INT}),
    "ProbeControlNet": _node(controlnet, ("CONTROL_NET",), {}, optional={"kind": (["SD1.5", "U-Net"],)}),
    "ProbeT2I": _node(t2i, ("CONTROL_NET",), {"channels": _INT}),
    "ProbeVAE": _node(vae, ("VAE",), {}),
    "ProbePatch": _node(patch, ("MODEL",), {"model": ("MODEL",), "how": (list(PATCHES),)}),
    "ProbeDigest": _node(digest, (), {"samples": ("LATENT",)}, output=True),
    "ProbeForward": _node(
        forward, (), {"model": ("MODEL",), "positive": ("CONDITIONING",), "at": ("FLOAT", {"max": 1000.0})}, output=True
    ),
    "ProbeSave": _node(save, (), {"model": ("MODEL",)}, output=True),
    "ProbeCounts": _node(counts, (), {"samples": ("LATENT",), "other": ("LATENT",)}, output=True),
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

    @server.routes.get("/probe/state")
    async def held(request):
        return web.json_response(state([one.model.diffusion_model for one in _models.values()]))


_listen()
