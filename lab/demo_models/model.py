"""The demo models: a U-Net, a DiT and a Flux transformer of diffusers over 2x2-unshuffled pixels, and their files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SchedulerMixin,
    UNet2DConditionModel,
)
from torch import nn

from ...core.files import write_safetensors
from ...pipelines.packing import PACKING, flux_positions, packed, unpacked
from ...pipelines.prompts import NetworkArguments
from .encoders import CLASS_DIM, TEXT_DIM
from .pictures import CLASSES
from .pipeline import LATENT_CHANNELS, LATENT_SIZE, IconPipeline
from .text import CaptionEncoder, ClassTable
from .weights import WEIGHTS, read_weights
from .words import WORDS, tokenize

PROFILES = Path(__file__).with_name("profiles")
"""Profiles of the shipped models with their own samplers and guidance 3: made by `skipstone profile`."""

UNET_CONFIG: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (32, 64, 112),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2, 4),  # the number of heads: diffusers' historical name
    "cross_attention_dim": CLASS_DIM,
    "norm_num_groups": 16,
}
DIT_CONFIG: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "patch_size": 2,
    "num_layers": 8,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_embeds_ada_norm": len(CLASSES),
}
FLOW_CONFIG: dict[str, Any] = {
    "in_channels": LATENT_CHANNELS * PACKING**2,
    "num_layers": 2,
    "num_single_layers": 6,
    "num_attention_heads": 4,
    "attention_head_dim": 24,
    "joint_attention_dim": TEXT_DIM,
    "pooled_projection_dim": TEXT_DIM,
    "axes_dims_rope": (4, 10, 10),
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
FLOW_SCHEDULER_CONFIG: dict[str, Any] = {"shift": 2.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {"unet": UNET_CONFIG, "scheduler": SCHEDULER_CONFIG},
    "dit": {"dit": DIT_CONFIG, "scheduler": SCHEDULER_CONFIG},
    "flow": {"flow": FLOW_CONFIG, "scheduler": FLOW_SCHEDULER_CONFIG},
}
"""Configs of each kind: of its network, under the kind's name, and of its scheduler."""


class DemoPipeline(IconPipeline):
    """The U-Net, conditioned on the class through cross-attention, as Stable Diffusion is on the prompt.

    Args:
        unet: the denoiser.
        class_table: prompt of each class.
        scheduler: of diffusers.

    Example:
        >>> type(load_demo("unet").network).__name__
        'UNet2DConditionModel'
    """

    model_cpu_offload_seq = "class_table->unet"

    def __init__(self, unet: UNet2DConditionModel, class_table: ClassTable, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, class_table=class_table, scheduler=scheduler)

    @property
    def network(self) -> Any:
        """The U-Net."""
        return self.unet

    def encode(self, prompts: Sequence[str]) -> NetworkArguments:
        """See :class:`IconPipeline`."""
        return {"encoder_hidden_states": self.class_table(self.labels(prompts))}


class DemoDiTPipeline(IconPipeline):
    """The DiT, conditioned on the class through adaptive layer norms, as facebook's DiT.

    Args:
        transformer: the denoiser.
        scheduler: of diffusers.

    Example:
        >>> pipe = load_demo("dit")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(["sun"], num_inference_steps=1)[0][0].size
        (64, 64)
    """

    model_cpu_offload_seq = "transformer"

    def __init__(self, transformer: DiTTransformer2DModel, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @property
    def network(self) -> Any:
        """The transformer."""
        return self.transformer

    def encode(self, prompts: Sequence[str]) -> NetworkArguments:
        """See :class:`IconPipeline`."""
        return {"class_labels": self.labels(prompts)}


class DemoFlowPipeline(IconPipeline):
    """The flow model: attention on text and picture together with rotary positions, as Flux; prompts are captions.

    Args:
        transformer: the denoiser.
        text_encoder: of captions.
        scheduler: of diffusers, for flow models.

    Example:
        >>> new_pipeline("flow").encode(["a red heart", ""])["encoder_hidden_states"].shape
        torch.Size([2, 10, 64])
    """

    model_cpu_offload_seq = "text_encoder->transformer"
    default_sample_size = LATENT_SIZE

    def __init__(
        self, transformer: FluxTransformer2DModel, text_encoder: CaptionEncoder, scheduler: SchedulerMixin
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, text_encoder=text_encoder, scheduler=scheduler)

    @property
    def network(self) -> Any:
        """The transformer."""
        return self.transformer

    def encode(self, prompts: Sequence[str]) -> NetworkArguments:
        """See :class:`IconPipeline`."""
        tokens, pooled = self.text_encoder(tokenize(prompts).to(self._execution_device))
        return {"encoder_hidden_states": tokens, "pooled_projections": pooled}

    def predict(self, latents: torch.Tensor, t: torch.Tensor, arguments: NetworkArguments) -> torch.Tensor:
        """See :class:`IconPipeline`. The network takes packed latents."""
        positions = flux_positions(latents, arguments["encoder_hidden_states"])
        tokens = self.transformer(packed(latents), timestep=self.time(t, latents), **arguments, **positions).sample
        return unpacked(tokens, latents.shape[-2:])

    def time(self, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The network's time in 0..1, [B], in the latents' dtype.

        Args:
            t: timesteps [] or [B].
            latents: [B, ...].
        """
        return t.expand(len(latents)).to(latents.dtype) / self.scheduler.config.num_train_timesteps


def new_pipeline(kind: str = "unet") -> IconPipeline:
    """An untrained pipeline of kind "unet", "dit" or "flow".

    Example:
        >>> type(new_pipeline("dit")).__name__
        'DemoDiTPipeline'
    """
    return _pipeline(CONFIGS[kind])


def pipeline_modules(pipe: IconPipeline) -> nn.ModuleDict:
    """The modules with weights, by their names in files.

    Example:
        >>> list(pipeline_modules(load_demo("unet")))
        ['unet', 'class_table']
    """
    if isinstance(pipe, DemoDiTPipeline):
        return nn.ModuleDict({"dit": pipe.transformer})
    if isinstance(pipe, DemoFlowPipeline):
        return nn.ModuleDict({"flow": pipe.transformer, "text_encoder": pipe.text_encoder})
    return nn.ModuleDict({"unet": pipe.unet, "class_table": pipe.class_table})


def save_demo(kind: str, tensors: dict[str, torch.Tensor], path: Path, training: dict[str, Any]) -> None:
    """Write the weights in half precision, with the configs and the training record as metadata.

    Args:
        kind: "unet", "dit" or "flow".
        tensors: weights by name.
        path: of the file.
        training: plain values about the training.

    Raises :class:`FileError`; an earlier file is then unchanged.

    Example:
        >>> save_demo("dit", {}, Path("/no such folder/a.safetensors"), {})
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write '/no such folder/a.safetensors' ...
    """
    config = {**CONFIGS[kind], "classes": CLASSES, **({"words": WORDS} if kind == "flow" else {})}
    halves = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    write_safetensors(path, halves, {"config": json.dumps(config), "training": json.dumps(training)})


def load_demo(
    kind: str = "unet", path: Path | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> IconPipeline:
    """Load a demo pipeline, ready to draw.

    Args:
        kind: "unet", "dit" or "flow", for the shipped one.
        path: of another file.
        device: for the weights.
        dtype: of the weights.

    Example:
        >>> load_demo("dit", dtype=torch.float16).network.dtype
        torch.float16
    """
    config, tensors = read_weights(path or WEIGHTS[kind])
    pipe = _pipeline(config)
    modules = pipeline_modules(pipe)
    modules.load_state_dict(tensors)
    modules.eval().to(device, dtype)
    return pipe


def profile_of(kind: str, steps: int) -> str:
    """Path of a shipped profile; "" if there is none.

    Args:
        kind: of the shipped model, "unet", "dit" or "flow".
        steps: number of steps.

    Example:
        >>> profile_of("unet", steps=3)
        ''
    """
    path = PROFILES / f"{kind}_{steps}.safetensors"
    return str(path) if path.is_file() else ""


def _pipeline(config: dict[str, Any]) -> IconPipeline:
    how = config["scheduler"]
    if "flow" in config:
        network = FluxTransformer2DModel(**config["flow"])
        return DemoFlowPipeline(network, CaptionEncoder(), FlowMatchEulerDiscreteScheduler(**how))
    if "dit" in config:
        return DemoDiTPipeline(DiTTransformer2DModel(**config["dit"]), DDIMScheduler(**how))
    return DemoPipeline(UNet2DConditionModel(**config["unet"]), ClassTable(), DDIMScheduler(**how))
