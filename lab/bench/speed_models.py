"""Models of full size with random weights, each as diffusers' own pipeline, for `skipstone bench speed`.

Prompts are given as embeddings of their real shapes and pictures stay latents, so no text encoder and no VAE runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.errors import ModelError
from .one_block import twin

SpeedModel = Literal["sd15", "sdxl", "sd35_large", "flux", "qwen_image", "z_image", "wan_1.3b", "wan_14b"]
_SPREAD = 0.02
"""Standard deviation of the weights of matrices and convolutions."""


@dataclass(frozen=True)
class Place:
    """Where a model is made, and how large its pictures are.

    Args:
        device: torch's name.
        dtype: of weights and embeddings.
        size: side of a picture, or height of a 16:9 video, in pixels; 0 for the model's own.
        frames: of a video.

    Example:
        >>> Place("cpu", torch.float32).size
        0
    """

    device: str
    dtype: torch.dtype
    size: int = 0
    frames: int = 81

    def embedding(self, *shape: int) -> Tensor:
        """Return normal values from a generator of their own.

        Args:
            shape: of the tensor.
        """
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(self.device, self.dtype)


@dataclass(frozen=True)
class Whole:
    """A pipeline with what its runs are given.

    Args:
        pipe: of diffusers.
        arguments: of its call, without steps.
        steps: that people run it with.
        what: size, guidance and the like, for tables.

    Example:
        >>> Whole(None, {}, 28, "1024 px").steps
        28
    """

    pipe: Any
    arguments: dict[str, Any]
    steps: int
    what: str

    @property
    def network(self) -> nn.Module:
        """The U-Net or transformer."""
        return getattr(self.pipe, "unet", None) or self.pipe.transformer

    def copied(self) -> Whole:
        """Return the same pipeline with modules and a scheduler of its own; weights are shared."""
        pipe = copy.copy(self.pipe)
        pipe.scheduler = copy.deepcopy(self.pipe.scheduler)
        setattr(pipe, "unet" if hasattr(pipe, "unet") else "transformer", twin(self.network))
        return Whole(pipe, self.arguments, self.steps, self.what)

    def draw(self, steps: int) -> Tensor:
        """Draw once from seed 0 and return the latents.

        Args:
            steps: of the sampler.
        """
        generator = torch.Generator().manual_seed(0)
        found = self.pipe(num_inference_steps=steps, generator=generator, output_type="latent", **self.arguments)
        latents: Tensor = next(iter(found.values()))
        return latents


def speed_model(model: SpeedModel, place: Place) -> Whole:
    """Make a model.

    Args:
        model: which.
        place: where, and how large its pictures are.

    Raises :class:`ModelError` without diffusers and accelerate, or in an older diffusers that does not have it.

    Example:
        >>> speed_model("flux", Place("cuda", torch.bfloat16)).steps  # doctest: +SKIP
        28
    """
    try:
        whole = _MAKERS[model](place)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{model} needs a newer diffusers ({error}): pip install -U 'skipstone[diffusers]'") from None
    whole.pipe.set_progress_bar_config(disable=True)
    return whole


def weighted(make: Callable[[], Any], place: Place) -> Any:
    """Make a network and fill it with random weights where it is to run, in its own precision: there is never a second copy.

    Matrices are normal, scales 1 and shifts 0. Parts that diffusers keeps in fp32 when it loads the model are in fp32.

    Args:
        make: makes the network.
        place: where.

    Example:
        >>> layer = weighted(lambda: nn.Linear(2, 2), Place("cpu", torch.bfloat16))
        >>> layer.weight.dtype, layer.bias.tolist()
        (torch.bfloat16, [0.0, 0.0])
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        network = make()
    precise = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    generator = torch.Generator(place.device).manual_seed(0)
    for path, module in network.named_modules():
        for name, empty in list(module.named_parameters(recurse=False)):
            kept = precise & {*path.split("."), name}
            value = torch.empty(empty.shape, device=place.device, dtype=torch.float32 if kept else place.dtype)
            if empty.ndim > 1:
                value.normal_(0, _SPREAD, generator=generator)
            else:
                value.fill_(name == "weight")
            setattr(module, name, nn.Parameter(value, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = buffer.to(place.device)
    return network.eval()


def _no(*names: str) -> dict[str, None]:
    """Parts of a pipeline that are left out."""
    return dict.fromkeys(("vae", "text_encoder", "tokenizer", *names))


def _scheduler(kind: str, **settings: Any) -> Any:
    import diffusers

    return getattr(diffusers, kind)(**settings)


def _prompted(text: Any, height: int, width: int = 0, **more: Any) -> dict[str, Any]:
    """Return what a pipeline is given for a prompt, its opposite and a size; pictures are square."""
    opposite = [-one for one in text] if isinstance(text, list) else -text
    sizes = {"height": height, "width": width or height}
    return {"prompt_embeds": text, "negative_prompt_embeds": opposite, **sizes, **more}


_LATENT_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _sd15(place: Place) -> Whole:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    size, text = place.size or 512, place.embedding(1, 77, 768)
    unet = weighted(lambda: UNet2DConditionModel(sample_size=64, cross_attention_dim=768), place)
    pipe = StableDiffusionPipeline(
        unet=unet, scheduler=_scheduler("EulerDiscreteScheduler", **_LATENT_DIFFUSION), **_no("safety_checker"),
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    given = _prompted(text, size, guidance_scale=7.0)
    return Whole(pipe, given, 30, f"{size} px, guidance 7 in one batch")


def _sdxl(place: Place) -> Whole:
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    size, text, pooled = place.size or 1024, place.embedding(1, 77, 2048), place.embedding(1, 1280)
    unet = weighted(
        lambda: UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, use_linear_projection=True,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20], addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        ),
        place,
    )  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        unet=unet, scheduler=_scheduler("EulerDiscreteScheduler", **_LATENT_DIFFUSION), add_watermarker=False,
        **_no("text_encoder_2", "tokenizer_2"),
    )  # fmt: skip
    given = {
        **_prompted(text, size, guidance_scale=7.0),
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": -pooled,
    }
    return Whole(pipe, given, 30, f"{size} px, guidance 7 in one batch")


def _flow(kind: str, transformer: Any, given: dict[str, Any], *absent: str) -> tuple[Any, dict[str, Any]]:
    """Return a flow model's pipeline and its arguments."""
    import diffusers

    scheduler = _scheduler("FlowMatchEulerDiscreteScheduler", shift=3.0)
    return getattr(diffusers, kind)(transformer=transformer, scheduler=scheduler, **_no(*absent)), given


def _sd35_large(place: Place) -> Whole:
    from diffusers import SD3Transformer2DModel

    size, text, pooled = place.size or 1024, place.embedding(1, 333, 4096), place.embedding(1, 2048)
    transformer = weighted(
        lambda: SD3Transformer2DModel(
            sample_size=128, num_layers=38, num_attention_heads=38, attention_head_dim=64, joint_attention_dim=4096,
            caption_projection_dim=2432, pooled_projection_dim=2048, pos_embed_max_size=192, qk_norm="rms_norm",
        ),
        place,
    )  # fmt: skip
    given = {
        **_prompted(text, size, guidance_scale=4.5),
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": -pooled,
    }
    absent = ("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    return Whole(
        *_flow("StableDiffusion3Pipeline", transformer, given, *absent), 28, f"{size} px, guidance 4.5 in one batch"
    )


def _flux(place: Place) -> Whole:
    from diffusers import FluxTransformer2DModel

    size = place.size or 1024
    transformer = weighted(lambda: FluxTransformer2DModel(guidance_embeds=True), place)
    given = {
        "prompt_embeds": place.embedding(1, 512, 4096), "pooled_prompt_embeds": place.embedding(1, 768),
        "height": size, "width": size, "guidance_scale": 3.5,
    }  # fmt: skip
    absent = ("text_encoder_2", "tokenizer_2")
    return Whole(*_flow("FluxPipeline", transformer, given, *absent), 28, f"{size} px, distilled guidance")


def _qwen_image(place: Place) -> Whole:
    from diffusers import QwenImageTransformer2DModel

    size, text, mask = place.size or 1024, place.embedding(1, 128, 3584), torch.ones(1, 128, dtype=torch.long)
    masks: dict[str, Any] = {
        "prompt_embeds_mask": mask.to(place.device),
        "negative_prompt_embeds_mask": mask.to(place.device),
    }
    given = _prompted(text, size, true_cfg_scale=4.0, **masks)
    transformer = weighted(QwenImageTransformer2DModel, place)
    return Whole(*_flow("QwenImagePipeline", transformer, given), 30, f"{size} px, guidance 4, two forwards in a step")


def _z_image(place: Place) -> Whole:
    from diffusers import ZImageTransformer2DModel

    size = place.size or 1024
    given = _prompted([place.embedding(128, 2560)], size, guidance_scale=4.0)
    transformer = weighted(ZImageTransformer2DModel, place)
    return Whole(*_flow("ZImagePipeline", transformer, given), 28, f"{size} px, guidance 4 in one batch")


def _wan(**sizes: int) -> Callable[[Place], Whole]:
    def made(place: Place) -> Whole:
        from diffusers import WanTransformer3DModel

        height = place.size or 480
        width, text = height * 16 // 9 // 16 * 16, place.embedding(1, 512, 4096)
        given = _prompted(text, height, width, num_frames=place.frames, guidance_scale=5.0)
        transformer = weighted(lambda: WanTransformer3DModel(**sizes), place)
        what = f"{width} x {height}, {place.frames} frames, guidance 5, two forwards in a step"
        return Whole(*_flow("WanPipeline", transformer, given), 30, what)

    return made


_MAKERS: dict[str, Callable[[Place], Whole]] = {
    "sd15": _sd15,
    "sdxl": _sdxl,
    "sd35_large": _sd35_large,
    "flux": _flux,
    "qwen_image": _qwen_image,
    "z_image": _z_image,
    "wan_1.3b": _wan(num_attention_heads=12, ffn_dim=8960, num_layers=30),
    "wan_14b": _wan(),
}
