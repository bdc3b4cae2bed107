"""ComfyUI's own node classes, as the workflows use them."""

from __future__ import annotations

from .workflow_nodes import Kind


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
    "LoraLoader": _kind(
        "Load LoRA", "model:MODEL clip:CLIP", "lora_name:COMBO strength_model:FLOAT strength_clip:FLOAT", "MODEL CLIP"
    ),
    "LoadImage": _kind("Load Image", "", "image:COMBO", "IMAGE MASK"),
    "Canny": _kind("Canny", "image:IMAGE", "low_threshold:FLOAT high_threshold:FLOAT", "IMAGE"),
    "ControlNetLoader": _kind("Load ControlNet Model", "", "control_net_name:COMBO", "CONTROL_NET"),
    "ControlNetApplyAdvanced": _kind(
        "Apply ControlNet", "positive:CONDITIONING negative:CONDITIONING control_net:CONTROL_NET image:IMAGE",
        "strength:FLOAT start_percent:FLOAT end_percent:FLOAT", "CONDITIONING CONDITIONING",
    ),
    "LatentUpscaleBy": _kind("Upscale Latent By", "samples:LATENT", "upscale_method:COMBO scale_by:FLOAT", "LATENT"),
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
