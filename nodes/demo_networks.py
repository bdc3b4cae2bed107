"""The shipped small models as ComfyUI's own classes, as if they came from a checkpoint: MODEL, CLIP and VAE.

The weights are those of the diffusers pipelines in `lab/demo_models`; ComfyUI renames them, as it does for diffusers files.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.ldm.flux.model
import comfy.model_base
import comfy.model_detection
import comfy.model_management as devices
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from torch import Tensor, nn

from ..core.models import unwrapped
from .demo_text import Prompts

PATCH = 2
"""Side of the block of pixels that is one latent pixel, as in the pipelines."""
LATENT_CHANNELS, LATENT_SIZE = 3 * PATCH**2, 32
_NORM_GROUPS = 16


class PixelLatents(comfy.latent_formats.LatentFormat):
    """Latents that hold the pixels themselves in -1..1, so that previews show the picture."""

    latent_channels = LATENT_CHANNELS
    spacial_downscale_ratio = PATCH
    latent_rgb_factors: ClassVar[list[list[float]]] = [
        [float(channel // PATCH**2 == colour) / PATCH**2 for colour in range(3)] for channel in range(LATENT_CHANNELS)
    ]


class _Settings(comfy.supported_models_base.BASE):
    """What ComfyUI knows of a model: sizes as they are given, in single precision."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}
    latent_format = PixelLatents

    def __init__(self, config: dict[str, Any], sampling: dict[str, Any]) -> None:
        """Sizes of the network, and its noise schedule."""
        super().__init__({**config, "dtype": torch.float32})
        self.sampling_settings = sampling


class Operations(comfy.ops.disable_weight_init):
    """ComfyUI's layers, with norms of as many groups as these networks were trained with."""

    class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
        """ComfyUI's, whatever number of groups it is asked for."""

        def __init__(self, num_groups: int, num_channels: int, **options: Any) -> None:
            """Channels, and torch's other arguments."""
            super().__init__(_NORM_GROUPS, num_channels, **options)


class Width(int):
    """Channels of a level of the U-Net. ComfyUI multiplies the narrowest by a factor; times anything this is itself."""

    def __mul__(self, other: Any) -> int:
        """The channels."""
        return int(self)

    __rmul__ = __mul__


def unet(config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """The U-Net as a `BaseModel`.

    Args:
        config: of the diffusers pipeline.
        tensors: its weights by name.
    """
    given = config["unet"]
    crossed, widths = [kind.startswith("Cross") for kind in given["down_block_types"]], given["block_out_channels"]
    settings = _Settings(
        {
            "image_size": LATENT_SIZE,
            "in_channels": LATENT_CHANNELS,
            "out_channels": LATENT_CHANNELS,
            "model_channels": widths[0],
            "channel_mult": [Width(width) for width in widths],
            "num_res_blocks": [1 for _ in widths],
            "transformer_depth": [int(one) for one in crossed],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [int(one) for one in crossed for _ in range(2)],
            "context_dim": given["cross_attention_dim"],
            "num_heads": 1,
            "use_spatial_transformer": True,
        },
        {
            "beta_schedule": "sqrt_linear",
            "linear_start": 1e-4,
            "linear_end": 2e-2,
        },  # a straight line in ComfyUI's terms
    )
    settings.custom_operations = Operations
    model = comfy.model_base.BaseModel(settings, comfy.model_base.ModelType.V_PREDICTION)
    _set_heads(model.diffusion_model, dict(zip(widths, given["attention_head_dim"], strict=True)))
    names = comfy.utils.unet_to_diffusers(settings.unet_config)
    return _filled(model, {ours: tensors[theirs] for theirs, ours in names.items() if theirs in tensors})


def _set_heads(network: nn.Module, heads: dict[int, int]) -> None:
    """Divide each attention into the heads of its width; ComfyUI's networks have one number of heads, or of channels a head."""
    for block in network.modules():
        if isinstance(block, BasicTransformerBlock):
            width = block.attn1.to_q.in_features
            block.n_heads, block.d_head = heads[width], width // heads[width]
            for attention in (block.attn1, block.attn2):
                attention.heads, attention.dim_head = block.n_heads, block.d_head


def flow(config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """The flow transformer as a `BaseModel`.

    Args:
        config: of the shipped file.
        tensors: its weights by name.
    """
    given = config["flow"]
    known = {one.name for one in fields(comfy.ldm.flux.model.FluxParams)}
    sizes = {
        "in_channels": given["in_channels"] // 4,
        "out_channels": given["in_channels"] // 4,
        "vec_in_dim": given["pooled_projection_dim"],
        "context_in_dim": given["joint_attention_dim"],
        "hidden_size": given["num_attention_heads"] * given["attention_head_dim"],
        "mlp_ratio": 4.0,
        "num_heads": given["num_attention_heads"],
        "depth": given["num_layers"],
        "depth_single_blocks": given["num_single_layers"],
        "axes_dim": given["axes_dims_rope"],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": False,
        **({"txt_ids_dims": []} if "txt_ids_dims" in known else {}),
    }
    settings = _Settings(sizes, {"shift": config["scheduler"]["shift"], "multiplier": 1.0})
    model = comfy.model_base.Flux(settings, comfy.model_base.ModelType.FLOW)
    return _filled(model, comfy.model_detection.convert_diffusers_mmdit(tensors, ""))


def _filled(model: Any, tensors: dict[str, Tensor]) -> Any:
    """The model with its weights; an error if one is missing or left over."""
    unwrapped(model.diffusion_model).load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model


NETWORKS = {"unet": unet, "flow": flow}
"""Kind of model -> what makes its network."""


def patcher(model: Any) -> Any:
    """A MODEL: the patcher of a `BaseModel`."""
    return comfy.model_patcher.ModelPatcher(model, devices.get_torch_device(), devices.unet_offload_device())


class TextModel(nn.Module):
    """The network of the prompts, as `comfy.sd.CLIP` calls it.

    Args:
        network: tokens int64 [1, n] -> hidden states [1, n, C], or these and a pooled vector.
        options: what ComfyUI adds; not used.
    """

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__()
        self.network = network
        self.dtypes = {torch.float32}

    def encode_token_weights(self, tokens: dict[str, list[list[tuple[Any, ...]]]]) -> tuple[Tensor, Tensor | None]:
        """Hidden states and pooled vector of the tokens of :class:`Prompts`."""
        numbers = [token[0] for token in tokens["icons"][0]]
        device = next(self.network.parameters()).device
        found = self.network(torch.tensor([numbers], device=device))
        return found if isinstance(found, tuple) else (found, None)

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """There are none."""

    def reset_clip_options(self) -> None:
        """There are none."""


def clip(prompts: Prompts) -> Any:
    """A CLIP, which encodes prompts."""
    target = comfy.supported_models_base.ClipTarget(lambda **options: prompts, partial(TextModel, prompts.network))
    return comfy.sd.CLIP(target)


class PixelShuffle(nn.Module):
    """Pictures [B, 3, H, W] and latents [B, 12, H/2, W/2] into each other, both in -1..1. Nothing is lost."""

    def __init__(self) -> None:
        """A parameter, because ComfyUI reads devices and types from them."""
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures to latents."""
        return nn.functional.pixel_unshuffle(pixels, PATCH)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures."""
        return nn.functional.pixel_shuffle(latents, PATCH)


def vae() -> Any:
    """A VAE that turns latents into pixels."""
    made = comfy.sd.VAE(sd={"pixel_space_vae": torch.ones(())})
    made.first_stage_model = PixelShuffle().eval()
    made.patcher = comfy.model_patcher.ModelPatcher(
        made.first_stage_model, load_device=made.device, offload_device=devices.vae_offload_device()
    )
    made.vae_dtype, made.latent_channels = torch.float32, LATENT_CHANNELS
    made.upscale_ratio = made.downscale_ratio = PATCH
    return made
