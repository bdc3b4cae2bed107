"""The demo models: a diffusers U-Net and a diffusers DiT over 2x2-unshuffled pixels, and their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, SchedulerMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors import safe_open
from torch import nn

from ...core.files import write_safetensors
from .pictures import CLASSES
from .pipeline import LATENT_CHANNELS, LATENT_SIZE, NULL, IconPipeline

WEIGHTS = {
    "unet": Path(__file__).with_name("icons_unet.safetensors"),
    "dit": Path(__file__).with_name("icons_dit.safetensors"),
}
PROFILES = Path(__file__).with_name("profiles")
"""Profiles of the shipped models, DDIM with guidance 3: made by `skipstone profile`."""
CLASS_TOKENS, CLASS_DIM = 4, 32

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
SCHEDULER_CONFIG: dict[str, Any] = {
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


class ClassTable(ModelMixin, ConfigMixin):
    """A learned prompt for each class; the last row is the empty prompt of classifier-free guidance.

    Args:
        classes: number of classes.
        tokens: of a prompt.
        dim: channels of a token.

    Example:
        >>> ClassTable(classes=3)(torch.tensor([0, 3])).shape
        torch.Size([2, 4, 32])
    """

    @register_to_config
    def __init__(self, classes: int = len(CLASSES), tokens: int = CLASS_TOKENS, dim: int = CLASS_DIM) -> None:
        super().__init__()
        self.table = nn.Embedding(classes + 1, tokens * dim)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels int64 [B] -> encoder hidden states [B, tokens, dim]."""
        return self.table(labels).unflatten(1, (self.config.tokens, self.config.dim))


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

    def predict(self, latents: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See :class:`IconPipeline`."""
        return self.unet(latents, t, encoder_hidden_states=self.class_table(labels)).sample


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

    def predict(self, latents: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See :class:`IconPipeline`."""
        return self.transformer(latents, t.expand(len(latents)), class_labels=labels).sample


def new_pipeline(kind: str = "unet") -> IconPipeline:
    """An untrained pipeline of kind "unet" or "dit".

    Example:
        >>> type(new_pipeline("dit")).__name__
        'DemoDiTPipeline'
    """
    return _pipeline({kind: {"unet": UNET_CONFIG, "dit": DIT_CONFIG}[kind], "scheduler": SCHEDULER_CONFIG})


def pipeline_modules(pipe: IconPipeline) -> nn.ModuleDict:
    """The modules with weights, by their names in files.

    Example:
        >>> list(pipeline_modules(load_demo("unet")))
        ['unet', 'class_table']
    """
    if isinstance(pipe, DemoDiTPipeline):
        return nn.ModuleDict({"dit": pipe.transformer})
    return nn.ModuleDict({"unet": pipe.unet, "class_table": pipe.class_table})


def save_demo(kind: str, tensors: dict[str, torch.Tensor], path: Path, training: dict[str, Any]) -> None:
    """Write the weights in half precision, with the configs and the training record as metadata.

    Args:
        kind: "unet" or "dit".
        tensors: weights by name.
        path: of the file.
        training: plain values about the training.

    Raises :class:`FileError`; an earlier file is then unchanged.

    Example:
        >>> save_demo("dit", {}, Path("/no such folder/a.safetensors"), {})
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write '/no such folder/a.safetensors' ...
    """
    config = {kind: {"unet": UNET_CONFIG, "dit": DIT_CONFIG}[kind], "scheduler": SCHEDULER_CONFIG, "classes": CLASSES}
    halves = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    write_safetensors(path, halves, {"config": json.dumps(config), "training": json.dumps(training)})


def load_demo(
    kind: str = "unet", path: Path | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> IconPipeline:
    """Load a demo pipeline, ready to draw.

    Args:
        kind: "unet" or "dit", for the shipped one.
        path: of another file.
        device: for the weights.
        dtype: of the weights.

    Example:
        >>> load_demo("dit", dtype=torch.float16).network.dtype
        torch.float16
    """
    with safe_open(path or WEIGHTS[kind], framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    pipe = _pipeline(config)
    modules = pipeline_modules(pipe)
    modules.load_state_dict(tensors)
    modules.eval().to(device, dtype)
    return pipe


def profile_of(kind: str, steps: int) -> str:
    """Path of a shipped profile; "" if there is none.

    Args:
        kind: of the shipped model, "unet" or "dit".
        steps: number of DDIM steps.

    Example:
        >>> profile_of("unet", steps=3)
        ''
    """
    path = PROFILES / f"{kind}_{steps}.safetensors"
    return str(path) if path.is_file() else ""


def _pipeline(config: dict[str, Any]) -> IconPipeline:
    scheduler = DDIMScheduler(**config["scheduler"])
    if "dit" in config:
        return DemoDiTPipeline(DiTTransformer2DModel(**config["dit"]), scheduler)
    return DemoPipeline(UNet2DConditionModel(**config["unet"]), ClassTable(NULL), scheduler)
