"""Every diffusers pipeline that the README names, as the pipeline itself, round tiny networks with random weights.

Prompts are given as embeddings and pictures stay latents, so that no text encoder is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import tiny
import torch
from torch import Tensor, nn

STEPS = 5
_TEXT = {"vae": None, "text_encoder": None, "tokenizer": None}
_SAFETY = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
_EMBEDS = {
    "prompt_embeds": tiny.noise(1, *tiny.CONTEXT, seed=1),
    "negative_prompt_embeds": tiny.noise(1, *tiny.CONTEXT, seed=2),
}
_POOLED = {"pooled_prompt_embeds": tiny.noise(1, 8, seed=3), "negative_pooled_prompt_embeds": tiny.noise(1, 8, seed=4)}
_MASKS = {"prompt_attention_mask": torch.ones(1, 7), "negative_prompt_attention_mask": torch.ones(1, 7)}
_LATENT = tiny.smooth(1, 4, 16, 16, seed=6)
_SIZE = {"height": 64, "width": 64}


@dataclass
class Running:
    """A pipeline and the arguments of its runs.

    calls: evaluations of the denoiser in a run. forwards: of the network in each. always: blocks that run at every call, as the
    pipeline reads them.
    """

    pipe: Any
    arguments: dict[str, Any] = field(default_factory=dict)
    calls: int = STEPS
    forwards: int = 1
    always: int = 0

    @property
    def network(self) -> nn.Module:
        """The U-Net or transformer."""
        return getattr(self.pipe, "unet", None) or self.pipe.transformer

    def __call__(self, steps: int = STEPS, **options: Any) -> Tensor:
        """One picture, or its latent."""
        given = {"num_inference_steps": steps, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
        found = next(iter(self.pipe(**{**given, **self.arguments, **options}).values()))
        return found if isinstance(found, Tensor) else torch.as_tensor(found)


def _ready(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sd(kind: str, **more: Any) -> Any:
    scheduler = tiny.make_scheduler("DDIMScheduler")
    parts = {"unet": tiny.diffusers_unet().model, "scheduler": scheduler, **_TEXT, **_SAFETY, **more}
    return _ready(getattr(diffusers, kind)(**parts))


def text_to_image() -> Running:
    """Stable Diffusion."""
    return Running(_sd("StableDiffusionPipeline"), _EMBEDS)


def image_to_image() -> Running:
    """Stable Diffusion from a picture's latent; two thirds of the steps run."""
    return Running(_sd("StableDiffusionImg2ImgPipeline"), {**_EMBEDS, "image": _LATENT, "strength": 0.7}, calls=3)


def inpainting() -> Running:
    """Stable Diffusion under a mask; it encodes the picture."""
    vae = tiny.randomise(
        diffusers.AutoencoderKL(block_out_channels=(4,) * 4, norm_num_groups=4, latent_channels=4, **_LEVELS)
    )
    picture, mask = tiny.smooth(1, 3, 128, 128).clamp(-1, 1), torch.zeros(1, 1, 128, 128)
    mask[..., :64] = 1
    arguments = {**_EMBEDS, "image": picture, "mask_image": mask, "height": 128, "width": 128}
    return Running(_sd("StableDiffusionInpaintPipeline", vae=vae), arguments)


_LEVELS = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}


def controlnet() -> Running:
    """Stable Diffusion with a ControlNet, whose residuals are added to the skips."""
    net = tiny.randomise(diffusers.ControlNetModel.from_unet(tiny.diffusers_unet().model), seed=7)
    pipe = _sd("StableDiffusionControlNetPipeline", controlnet=net)
    return Running(pipe, {**_EMBEDS, "image": tiny.smooth(1, 3, 128, 128), "height": 128, "width": 128})


def perturbed_attention() -> Running:
    """Stable Diffusion with PAG: a third row, whose self-attention is the identity."""
    pipe = _sd("StableDiffusionPAGPipeline", pag_applied_layers=["down", "mid", "up"])
    return Running(pipe, {**_EMBEDS, "pag_scale": 3.0})


def self_attention_guidance() -> Running:
    """Stable Diffusion with SAG: it reads the middle block's attention maps, and runs the U-Net again in each step."""
    return Running(_sd("StableDiffusionSAGPipeline"), {**_EMBEDS, "height": 128, "width": 128}, forwards=2, always=1)


def sdxl() -> Running:
    """Stable Diffusion XL."""
    unet = tiny.diffusers_unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=32
    ).model
    parts = {**_TEXT, "text_encoder_2": None, "tokenizer_2": None, "add_watermarker": False}
    pipe = diffusers.StableDiffusionXLPipeline(
        unet=unet, scheduler=tiny.make_scheduler("EulerDiscreteScheduler"), **parts
    )
    return Running(_ready(pipe), {**_EMBEDS, **_POOLED, "height": 128, "width": 128})


def dit() -> Running:
    """Class-conditional DiT."""
    return Running(tiny.dit_pipeline(), {"class_labels": [1], "output_type": "np"})


def _pixart(kind: str) -> Running:
    parts = {
        **_TEXT,
        "transformer": tiny.pixart().model,
        "scheduler": tiny.make_scheduler("DPMSolverMultistepScheduler"),
    }
    sizes = {"height": 128, "width": 128, "negative_prompt": None, "use_resolution_binning": False}
    return Running(_ready(getattr(diffusers, kind)(**parts)), {**_EMBEDS, **_MASKS, **sizes})


def pixart_alpha() -> Running:
    """PixArt-alpha."""
    return _pixart("PixArtAlphaPipeline")


def pixart_sigma() -> Running:
    """PixArt-Sigma."""
    return _pixart("PixArtSigmaPipeline")


def _flow(kind: str, transformer: nn.Module, arguments: dict[str, Any], texts: int = 1) -> Running:
    more = [{}, *({f"text_encoder_{n}": None, f"tokenizer_{n}": None} for n in range(2, texts + 1))]
    parts = {**_TEXT, **{k: v for m in more for k, v in m.items()}, "transformer": tiny.randomise(transformer)}
    pipe = getattr(diffusers, kind)(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **parts)
    return Running(_ready(pipe), {**_SIZE, **arguments})


def sd3() -> Running:
    """Stable Diffusion 3."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=tiny.CONTEXT[1],
        caption_projection_dim=16,
        pooled_projection_dim=8,
        pos_embed_max_size=16,
    )
    return _flow("StableDiffusion3Pipeline", transformer, {**_EMBEDS, **_POOLED}, texts=3)


_ROTARY = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": tiny.CONTEXT[1],
    "axes_dims_rope": [4, 4, 8],
}


def flux() -> Running:
    """Flux; it gives the transformer timesteps in 0..1."""
    transformer = diffusers.FluxTransformer2DModel(pooled_projection_dim=8, **_ROTARY)
    arguments = {k: v for k, v in {**_EMBEDS, **_POOLED}.items() if not k.startswith("negative")}
    return _flow("FluxPipeline", transformer, arguments, texts=2)


def chroma() -> Running:
    """Chroma; it gives the transformer timesteps in 0..1, cond and uncond one after the other."""
    transformer = diffusers.ChromaTransformer2DModel(
        approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1, **_ROTARY
    )
    running = _flow("ChromaPipeline", transformer, {**_EMBEDS, **_MASKS, "guidance_scale": 3.0})
    running.forwards = 2
    return running


_LIST = {
    "prompt_embeds": [_EMBEDS["prompt_embeds"][0]],
    "negative_prompt_embeds": [_EMBEDS["negative_prompt_embeds"][0]],
}
_VIDEO = {"num_frames": 5, "height": 32, "width": 32}


def qwen_image() -> Running:
    """Qwen-Image; it gives the transformer timesteps in 0..1, and names cond and uncond."""
    sizes = {k: v for k, v in _ROTARY.items() if k != "num_single_layers"} | {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 4,
    }
    masks = {"prompt_embeds_mask": torch.ones(1, 7).long(), "negative_prompt_embeds_mask": torch.ones(1, 7).long()}
    running = _flow("QwenImagePipeline", diffusers.QwenImageTransformer2DModel(**sizes), {**_EMBEDS, **masks})
    running.forwards = 2
    return running


def z_image() -> Running:
    """Z-Image; it gives the transformer a list of pictures, and time from noise 0 to picture 1."""
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=tiny.CONTEXT[1],
        axes_dims=[4, 4, 8],
        axes_lens=[64, 64, 64],
    )
    return _flow("ZImagePipeline", transformer, {**_LIST, "height": 128, "width": 128})


def lumina2() -> Running:
    """Lumina 2; it gives the transformer time from noise 0 to picture 1, cond and uncond one after the other."""
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=32,
        num_layers=4,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=8,
        axes_dim_rope=(4, 4, 8),
        axes_lens=(64, 64, 64),
        cap_feat_dim=tiny.CONTEXT[1],
    )
    masks = {name: mask.long() for name, mask in _MASKS.items()}
    running = _flow("Lumina2Pipeline", transformer, {**_EMBEDS, **masks})
    running.forwards = 2
    return running


def wan() -> Running:
    """Wan; it states cond, step and noise level of each forward."""
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=tiny.CONTEXT[1],
        freq_dim=8,
        ffn_dim=16,
        num_layers=4,
        rope_max_seq_len=32,
    )
    running = _flow("WanPipeline", transformer, _EMBEDS)
    running.arguments |= _VIDEO
    running.forwards = 2
    return running


def ltx() -> Running:
    """LTX video; its latent is packed."""
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=4,
        caption_channels=tiny.CONTEXT[1],
    )
    running = _flow("LTXPipeline", transformer, {**_EMBEDS, **_MASKS})
    running.arguments |= {"num_frames": 9, "height": 64, "width": 64}
    return running


def hunyuan_video() -> Running:
    """HunyuanVideo with true guidance: it names cond and uncond."""
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=4,
        num_single_layers=4,
        num_refiner_layers=1,
        text_embed_dim=tiny.CONTEXT[1],
        pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 8),
    )
    arguments = {**_EMBEDS, **_POOLED, **_MASKS, "true_cfg_scale": 3.0}
    running = _flow("HunyuanVideoPipeline", transformer, arguments, texts=2)
    running.arguments |= _VIDEO
    running.forwards = 2
    return running


PIPELINES: dict[str, Callable[[], Running]] = {
    build.__name__: build
    for build in (
        text_to_image, image_to_image, inpainting, controlnet, perturbed_attention, self_attention_guidance, sdxl, dit,
        pixart_alpha, pixart_sigma, sd3, flux, chroma, qwen_image, z_image, lumina2, wan, ltx, hunyuan_video,
    )
}  # fmt: skip
