"""Model folders of every kind that masks are trained on: the real diffusers classes, encoders and tokenizers, tiny and random."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import tiny
import transformers

LABELS = {"0": "tench", "1": "goldfish, gold", "2": "shark"}
_WIDTH = 8


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer over single letters and two merged words."""
    pieces = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    merges = ["a t</w>", "c at</w>"]
    pieces += [merge.replace(" ", "") for merge in merges] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77}))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def t5_tokenizer(folder: Path) -> Any:
    """T5's tokenizer over single letters."""
    import tokenizers

    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    scores += [(letter, -3.0) for letter in string.ascii_lowercase]
    model = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=2))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    model.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"extra_ids": 0, "model_max_length": 300, "additional_special_tokens": []})
    )
    return transformers.T5TokenizerFast.from_pretrained(folder)


def bert_tokenizer(folder: Path) -> Any:
    """BERT's tokenizer over single letters."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    words += [f"##{letter}" for letter in string.ascii_lowercase]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    return transformers.BertTokenizer.from_pretrained(folder)


def clip(tokenizer: Any, projected: bool = False, width: int = _WIDTH, seed: int = 0) -> Any:
    """CLIP's text encoder; projected: the one with a pooled, projected output."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=width, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return tiny.randomise(kind(config), seed)


def t5(tokenizer: Any, width: int = _WIDTH) -> Any:
    """T5's encoder."""
    config = transformers.T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return tiny.randomise(transformers.T5EncoderModel(config), 3)


def autoencoder(channels: int = 4, scales: int = 4) -> Any:
    """A VAE that makes sides 2^(scales - 1) times smaller."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,) * scales, down_block_types=("DownEncoderBlock2D",) * scales,
        up_block_types=("UpDecoderBlock2D",) * scales, norm_num_groups=2, latent_channels=channels,
    )  # fmt: skip
    return tiny.randomise(vae)


def pixel_unet() -> Any:
    """DDPM's U-Net."""
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )  # fmt: skip
    return tiny.randomise(unet)


def ddpm(folder: Path) -> Any:
    """Unconditional pixels, a sampler that adds noise."""
    return diffusers.DDPMPipeline(pixel_unet(), diffusers.DDPMScheduler())


def ddim(folder: Path) -> Any:
    """Unconditional pixels."""
    return diffusers.DDIMPipeline(pixel_unet(), diffusers.DDIMScheduler())


def ldm(folder: Path) -> Any:
    """Unconditional latents of a VQ autoencoder."""
    vq = diffusers.VQModel(
        block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=2, num_vq_embeddings=16,
    )  # fmt: skip
    return diffusers.LDMPipeline(tiny.randomise(vq), pixel_unet(), diffusers.DDIMScheduler())


def ldm_text(folder: Path) -> Any:
    """Latents by prompts, with LDM's own BERT."""
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    tokenizer = bert_tokenizer(folder / "tok")
    config = LDMBertConfig(
        vocab_size=len(tokenizer), d_model=_WIDTH, encoder_layers=1, encoder_ffn_dim=16, encoder_attention_heads=2,
        head_dim=4,
    )  # fmt: skip
    bert = tiny.randomise(LDMBertModel(config))
    return diffusers.LDMTextToImagePipeline(
        autoencoder(), bert, tokenizer, tiny.diffusers_unet().model, tiny.make_scheduler("DDIMScheduler")
    )


def sd(folder: Path) -> Any:
    """Stable Diffusion 1, without its safety checker."""
    tokenizer = clip_tokenizer(folder / "tok")
    return diffusers.StableDiffusionPipeline(
        autoencoder(), clip(tokenizer), tokenizer, tiny.diffusers_unet().model, tiny.make_scheduler("PNDMScheduler"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl(folder: Path) -> Any:
    """SDXL: two encoders, sizes and a pooled text beside the prompt."""
    tokenizer = clip_tokenizer(folder / "tok")
    unet = tiny.diffusers_unet(
        sample_size=8, cross_attention_dim=2 * _WIDTH, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + _WIDTH, use_linear_projection=True,
    ).model  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        autoencoder(), clip(tokenizer), clip(tokenizer, True, seed=1), tokenizer, tokenizer, unet,
        tiny.make_scheduler("EulerDiscreteScheduler"),
    )  # fmt: skip


def dit(folder: Path) -> Any:
    """DiT with ImageNet's first class names."""
    pipe = tiny.dit_pipeline()
    return diffusers.DiTPipeline(pipe.transformer, pipe.vae, pipe.scheduler, id2label=LABELS)


def _pixart(folder: Path, kind: Any, sample_size: int) -> Any:
    tokenizer = t5_tokenizer(folder / "tok")
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=6, in_channels=4, out_channels=8, num_layers=2, norm_num_groups=4,
        cross_attention_dim=12, caption_channels=_WIDTH, sample_size=sample_size, patch_size=2,
        use_additional_conditions=sample_size == 128 and kind is diffusers.PixArtAlphaPipeline,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler()
    return kind(tokenizer, t5(tokenizer), autoencoder(), tiny.randomise(transformer), scheduler)


def pixart_alpha(folder: Path) -> Any:
    """PixArt alpha at 256 px."""
    return _pixart(folder, diffusers.PixArtAlphaPipeline, 32)


def pixart_alpha_1024(folder: Path) -> Any:
    """PixArt alpha at 1024 px, which is told the picture's size."""
    return _pixart(folder, diffusers.PixArtAlphaPipeline, 128)


def pixart_sigma(folder: Path) -> Any:
    """PixArt sigma at 256 px."""
    return _pixart(folder, diffusers.PixArtSigmaPipeline, 32)


def sd3(folder: Path, with_t5: bool = True, **scheduler: Any) -> Any:
    """SD3: two CLIPs, and T5 where wanted."""
    tokenizer, third = clip_tokenizer(folder / "tok"), t5_tokenizer(folder / "tok3") if with_t5 else None
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=2 * _WIDTH + 4, caption_projection_dim=16, pooled_projection_dim=2 * _WIDTH,
        out_channels=4, pos_embed_max_size=8,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        tiny.randomise(transformer), diffusers.FlowMatchEulerDiscreteScheduler(**scheduler), autoencoder(),
        clip(tokenizer, True), tokenizer, clip(tokenizer, True, seed=1), tokenizer,
        None if third is None else t5(third, 2 * _WIDTH + 4), third,
    )  # fmt: skip


def sd3_without_t5(folder: Path) -> Any:
    """SD3 as most people run it."""
    return sd3(folder, with_t5=False)


def sd3_shifted(folder: Path) -> Any:
    """SD3 with a sampler whose timesteps depend on the picture's size."""
    return sd3(folder, with_t5=False, use_dynamic_shifting=True)


MAKERS: dict[str, Callable[[Path], Any]] = {
    "ddpm": ddpm, "ddim": ddim, "ldm": ldm, "ldm_text": ldm_text, "sd": sd, "sdxl": sdxl, "dit": dit,
    "pixart_alpha": pixart_alpha, "pixart_alpha_1024": pixart_alpha_1024, "pixart_sigma": pixart_sigma, "sd3": sd3,
    "sd3_without_t5": sd3_without_t5, "sd3_shifted": sd3_shifted,
}  # fmt: skip


def save(kind: str, folder: Path, **how: Any) -> Path:
    """Write a pipeline of a kind as a diffusers folder and return its place."""
    MAKERS[kind](folder.with_name(f"{folder.name}_parts")).save_pretrained(folder, **how)
    if kind == "dit":
        index = folder / "model_index.json"
        index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": LABELS}))
    return folder
