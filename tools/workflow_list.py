"""The workflows that :mod:`skipstone.tools.workflows` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .workflow_nodes import Kind, Node, Workflow


def _kind(title: str, sockets: str, widgets: str, outputs: str) -> Kind:
    """Sockets and widgets are written "name:TYPE name:TYPE"."""
    pairs = [dict(word.split(":") for word in words.split()) for words in (sockets, widgets)]
    return Kind(pairs[0], pairs[1], outputs.split(), title)


_SAMPLER = "seed:INT steps:INT cfg:FLOAT sampler_name:COMBO scheduler:COMBO denoise:FLOAT"
_SIZE = "width:INT height:INT batch_size:INT"
CORE: dict[str, Kind] = {
    "CheckpointLoaderSimple": _kind("Load Checkpoint", "", "ckpt_name:COMBO", "MODEL CLIP VAE"),
    "UNETLoader": _kind("Load Diffusion Model", "", "unet_name:COMBO weight_dtype:COMBO", "MODEL"),
    "CLIPLoader": _kind("Load CLIP", "", "clip_name:COMBO type:COMBO device:COMBO", "CLIP"),
    "DualCLIPLoader": _kind("DualCLIPLoader", "", "clip_name1:COMBO clip_name2:COMBO type:COMBO device:COMBO", "CLIP"),
    "VAELoader": _kind("Load VAE", "", "vae_name:COMBO", "VAE"),
    "CLIPTextEncode": _kind("CLIP Text Encode (Prompt)", "clip:CLIP", "text:STRING", "CONDITIONING"),
    "ConditioningZeroOut": _kind("ConditioningZeroOut", "conditioning:CONDITIONING", "", "CONDITIONING"),
    "FluxGuidance": _kind("FluxGuidance", "conditioning:CONDITIONING", "guidance:FLOAT", "CONDITIONING"),
    "ModelSamplingAuraFlow": _kind("ModelSamplingAuraFlow", "model:MODEL", "shift:FLOAT", "MODEL"),
    "ModelSamplingSD3": _kind("ModelSamplingSD3", "model:MODEL", "shift:FLOAT", "MODEL"),
    "EmptyLatentImage": _kind("Empty Latent Image", "", _SIZE, "LATENT"),
    "EmptySD3LatentImage": _kind("EmptySD3LatentImage", "", _SIZE, "LATENT"),
    "EmptyHunyuanLatentVideo": _kind(
        "Empty HunyuanVideo Latent", "", "width:INT height:INT length:INT batch_size:INT", "LATENT"
    ),
    "KSampler": _kind(
        "KSampler", "model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT", _SAMPLER, "LATENT"
    ),
    "VAEDecode": _kind("VAE Decode", "samples:LATENT vae:VAE", "", "IMAGE"),
    "VAEEncode": _kind("VAE Encode", "pixels:IMAGE vae:VAE", "", "LATENT"),
    "SaveImage": _kind("Save Image", "images:IMAGE", "filename_prefix:STRING", ""),
    "PreviewImage": _kind("Preview Image", "images:IMAGE", "", ""),
    "SaveAnimatedWEBP": _kind(
        "SaveAnimatedWEBP", "images:IMAGE",
        "filename_prefix:STRING fps:FLOAT lossless:BOOLEAN quality:INT method:COMBO", "",
    ),
    "MarkdownNote": _kind("Note", "", "text:STRING", ""),
}  # fmt: skip
"""ComfyUI's own node classes."""

_HUB = "https://huggingface.co/"
_LAKE = "a flat stone skipping over a calm lake at sunrise, rings on the water, photograph"
_AUTO = ("balanced", 2.0, 0.0, True, "none")
_READ = "**2.** Run. The node Skipstone counts the calls as they go, and afterwards shows what was saved."
_TRY = (
    "**3.** Too far from the original? Set `level` to gentle. Fast enough, but could be faster? fast, or custom with a "
    "number of your own. The seed is fixed, so that you see the difference."
)


def _note(*lines: str, top: int = 730) -> Node:
    return Node("MarkdownNote", (40, top), (330, 330), ("\n\n".join(lines),), title="Skipstone")


def _unet(name: str, place: str) -> Node:
    return Node("UNETLoader", (40, 120), (330, 90), (name, "default"), files=_file(name, "diffusion_models", place))


def _vae(name: str, place: str) -> Node:
    return Node("VAELoader", (40, 440), (330, 70), (name,), files=_file(name, "vae", place))


def _file(name: str, folder: str, place: str) -> tuple[tuple[str, str, str], ...]:
    return ((name, folder, f"{_HUB}{place}/{name}?download=true"),)


def _sampled(
    loaders: Workflow,
    latent: Node,
    sampler: tuple[Any, ...],
    clip: tuple[int, int],
    vae: tuple[int, int],
    model: tuple[int, int],
    note: Node,
    prompts: tuple[str, str] = (_LAKE, "text, watermark"),
) -> dict[int, Node]:
    """The usual graph: loaders, Skipstone, two prompts, KSampler, decoder and a picture to save."""
    return {
        **loaders,
        2: Node("SkipstoneAuto", (400, 120), (300, 290), _AUTO, {"model": model}),
        3: Node("CLIPTextEncode", (730, 460), (340, 130), prompts[:1], {"clip": clip}, "Positive"),
        4: Node("CLIPTextEncode", (730, 640), (340, 100), prompts[1:], {"clip": clip}, "Negative"),
        5: latent,
        6: Node(
            "KSampler", (730, 120), (340, 290), sampler,
            {"model": (2, 0), "positive": (3, 0), "negative": (4, 0), "latent_image": (5, 0)},
        ),
        7: Node("VAEDecode", (1110, 120), (290, 60), (), {"samples": (6, 0), "vae": vae}),
        8: Node("SaveImage", (1110, 240), (290, 390), ("skipstone",), {"images": (7, 0)}),
        9: note,
    }  # fmt: skip


def _empty(kind: str, *size: int) -> Node:
    return Node(kind, (40, 560), (330, 120), size)


def _demo() -> dict[int, Node]:
    loader = Node("SkipstoneDemoModel", (40, 120), (330, 170), ("icons (flow)", 4))
    note = _note(
        "**1.** Choose a demo model above, or keep it: nothing needs to be downloaded.",
        _READ,
        _TRY,
        "For a model of your own, put Load Checkpoint and Empty Latent Image in place of the demo model.",
        top=350,
    )
    prompts = ("a pink star on a purple background", "")
    made = _sampled(
        {1: loader}, loader, (1, 20, 3.0, "euler", "sgm_uniform", 1.0), (1, 1), (1, 2), (1, 0), note, prompts
    )
    made[6] = replace(made[6], links={**made[6].links, "latent_image": (1, 3)})
    return {number: node for number, node in made.items() if number != 5}


def _compared() -> dict[int, Node]:
    """Both pictures from one seed in one queue."""
    made = _demo()
    made[9] = _note(
        "**1.** Choose a demo model above, or keep it: nothing needs to be downloaded.",
        "**2.** Run: the lower sampler draws the original, the upper one the accelerated picture. Both have the same seed.",
        "**3.** Move the mouse over Compare Pictures to wipe between them. Run Report shows what each call did.",
        "Change the seed of both samplers together.",
        top=350,
    )
    sampler = made[6]
    plain = {**sampler.links, "model": (1, 0)}
    made[6] = replace(sampler, title="Accelerated")
    made[10] = replace(sampler, at=(730, 780), links=plain, title="Original")
    made[11] = Node("VAEDecode", (1110, 230), (290, 60), (), {"samples": (10, 0), "vae": (1, 2)})
    made[8] = Node("SkipstoneCompare", (1430, 120), (420, 480), (5.0,), {"original": (11, 0), "accelerated": (7, 0)})
    made[12] = Node("SkipstoneReport", (1430, 660), (480, 300), (), {"model": (2, 0), "after": (6, 0)})
    made[13] = Node("PreviewImage", (1110, 340), (290, 300), (), {"images": (8, 1)}, "Difference, amplified")
    return made


def _again(made: dict[int, Node], latent: tuple[int, int], denoise: float, *note: str) -> dict[int, Node]:
    """With a second sampler, which begins from what the first has drawn."""
    first = made[6]
    links = {**first.links, "latent_image": latent}
    made[6] = replace(first, title="First pass")
    made[12] = replace(first, at=(1430, 120), values=(*first.values[:-1], denoise), links=links, title="Second pass")
    made[13] = Node("VAEDecode", (1810, 120), (290, 60), (), {"samples": (12, 0), "vae": (1, 2)})
    made[8] = replace(made[8], at=(1810, 240), links={"images": (13, 0)})
    made[9] = _note("**1.** Choose a demo model above, or keep it: nothing needs to be downloaded.", *note, top=350)
    return made


def _image_to_image() -> dict[int, Node]:
    """A picture, encoded and drawn further with another prompt."""
    made = _demo()
    made[10] = Node("VAEEncode", (1110, 240), (290, 60), (), {"pixels": (7, 0), "vae": (1, 2)})
    made[11] = Node("PreviewImage", (1110, 360), (290, 300), (), {"images": (7, 0)}, "First picture")
    made[14] = Node(
        "CLIPTextEncode",
        (1430, 460),
        (340, 130),
        ("a yellow sun on a purple background",),
        {"clip": (1, 1)},
        "Second prompt",
    )
    made = _again(
        made, (10, 0), 0.8,
        "**2.** Run: the first sampler draws a picture, the second one turns it into that of the second prompt. Skipstone serves "
        "both.",
        "**3.** For a picture of your own, put Load Image in place of the first sampler and its VAE Decode.",
    )  # fmt: skip
    made[12] = replace(made[12], links={**made[12].links, "positive": (14, 0)})
    return made


def _checkpoint(name: str, place: str, what: str, size: int, cfg: float) -> dict[int, Node]:
    loader = Node("CheckpointLoaderSimple", (40, 120), (330, 110), (name,), files=_file(name, "checkpoints", place))
    note = _note(f"**1.** Choose {what} above.", _READ, _TRY, top=290)
    latent, sampler = (
        replace(_empty("EmptyLatentImage", size, size, 1), at=(40, 680)),
        (1, 25, cfg, "dpmpp_2m", "simple", 1.0),
    )
    return _sampled({1: loader}, latent, sampler, (1, 1), (1, 2), (1, 0), note)


def _flux() -> dict[int, Node]:
    texts = "comfyanonymous/flux_text_encoders/resolve/main"
    names = ("clip_l.safetensors", "t5xxl_fp16.safetensors")
    loaders = {
        1: _unet("flux1-dev.safetensors", "Comfy-Org/flux1-dev/resolve/main"),
        11: Node(
            "DualCLIPLoader", (40, 255), (330, 140), (*names, "flux", "default"),
            files=tuple(one for name in names for one in _file(name, "text_encoders", texts)),
        ),
        12: _vae("ae.safetensors", "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae"),
    }  # fmt: skip
    note = _note("**1.** Choose a Flux model, its two text encoders and its VAE above.", _READ, _TRY)
    latent = _empty("EmptySD3LatentImage", 1024, 1024, 1)
    made = _sampled(loaders, latent, (1, 20, 1.0, "euler", "simple", 1.0), (11, 0), (12, 0), (1, 0), note, (_LAKE, ""))
    made[4] = Node("ConditioningZeroOut", (730, 755), (340, 50), (), {"conditioning": (3, 0)})
    made[13] = Node("FluxGuidance", (730, 640), (340, 70), (3.5,), {"conditioning": (3, 0)})
    made[6] = replace(made[6], links={**made[6].links, "positive": (13, 0)})
    return made


def _shifted(made: dict[int, Node], kind: str, shift: float) -> dict[int, Node]:
    """With the model's own node of the noise schedule before Skipstone."""
    made[13] = Node(kind, (400, 120), (300, 70), (shift,), {"model": (1, 0)})
    made[2] = replace(made[2], at=(400, 240), links={"model": (13, 0)})
    return made


def _z_image() -> dict[int, Node]:
    files = "Comfy-Org/z_image_turbo/resolve/main/split_files"
    loaders = {
        1: _unet("z_image_bf16.safetensors", "Comfy-Org/z_image/resolve/main/split_files/diffusion_models"),
        11: Node(
            "CLIPLoader", (40, 255), (330, 120), ("qwen_3_4b.safetensors", "lumina2", "default"),
            files=_file("qwen_3_4b.safetensors", "text_encoders", f"{files}/text_encoders"),
        ),
        12: _vae("ae.safetensors", f"{files}/vae"),
    }  # fmt: skip
    note = _note(
        "**1.** Choose a Z-Image model (not Turbo: too few steps), its text encoder and its VAE above.", _READ, _TRY
    )
    latent = _empty("EmptySD3LatentImage", 1024, 1024, 1)
    made = _sampled(loaders, latent, (1, 25, 4.0, "euler", "simple", 1.0), (11, 0), (12, 0), (1, 0), note)
    return _shifted(made, "ModelSamplingAuraFlow", 3.0)


def _wan() -> dict[int, Node]:
    files = "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
    text = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"
    loaders = {
        1: _unet("wan2.1_t2v_1.3B_fp16.safetensors", f"{files}/diffusion_models"),
        11: Node(
            "CLIPLoader", (40, 255), (330, 120), (text, "wan", "default"),
            files=_file(text, "text_encoders", f"{files}/text_encoders"),
        ),
        12: _vae("wan_2.1_vae.safetensors", f"{files}/vae"),
    }  # fmt: skip
    note = _note("**1.** Choose a Wan model, its text encoder and its VAE above.", _READ, _TRY)
    latent = Node("EmptyHunyuanLatentVideo", (40, 560), (330, 140), (832, 480, 33, 1))
    made = _sampled(loaders, latent, (1, 30, 6.0, "euler", "simple", 1.0), (11, 0), (12, 0), (1, 0), note)
    made[9] = replace(note, at=(40, 750))
    made[8] = Node(
        "SaveAnimatedWEBP", (1110, 240), (290, 390), ("skipstone", 16.0, False, 90, "default"), {"images": (7, 0)}
    )
    return _shifted(made, "ModelSamplingSD3", 8.0)


_SDXL = "stabilityai/stable-diffusion-xl-base-1.0/resolve/main"
WORKFLOWS: Mapping[str, Workflow] = {
    "demo_skipstone": _demo(),
    "demo_compare": _compared(),
    "demo_image_to_image": _image_to_image(),
    "sdxl_skipstone": _checkpoint("sd_xl_base_1.0.safetensors", _SDXL, "an SDXL checkpoint", 1024, 7.0),
    "flux_skipstone": _flux(),
    "z_image_skipstone": _z_image(),
    "wan_skipstone": _wan(),
}
