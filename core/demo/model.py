"""The demo model: a diffusers U-Net over 2x2-unshuffled pixels, a learned class table, and an ordinary pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, SchedulerMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from .pictures import CLASSES

WEIGHTS = Path(__file__).with_name("icons_unet.safetensors")
PATCH = 2
"""Each 2x2 block of pixels is one latent token, so a 64x64 picture is a 12 x 32 x 32 latent of 1024 tokens."""
CLASS_TOKENS, CLASS_DIM = 4, 32

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3 * PATCH**2,
    "out_channels": 3 * PATCH**2,
    "block_out_channels": (32, 64, 112),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (1, 2, 4),  # the number of heads: diffusers' historical name
    "cross_attention_dim": CLASS_DIM,
    "norm_num_groups": 16,
}
SCHEDULER_CONFIG: dict[str, Any] = {
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


class ClassTable(ModelMixin, ConfigMixin):
    """A learned prompt for each class; the last row is the empty prompt of classifier-free guidance."""

    @register_to_config
    def __init__(self, classes: int = len(CLASSES), tokens: int = CLASS_TOKENS, dim: int = CLASS_DIM) -> None:
        super().__init__()
        self.table = nn.Embedding(classes + 1, tokens * dim)

    @property
    def null(self) -> int:
        """The label of the empty prompt."""
        return self.config.classes

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels int64 [B] -> encoder hidden states [B, tokens, dim]."""
        return self.table(labels).unflatten(1, (self.config.tokens, self.config.dim))


def to_latents(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 [B, 3, H, W] -> latents [B, 12, H/2, W/2] in -1..1."""
    return F.pixel_unshuffle(pictures.float() / 127.5 - 1, PATCH)


def to_pictures(latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, 12, h, w] -> pictures [B, 3, 2h, 2w] in 0..1."""
    return (F.pixel_shuffle(latents.float(), PATCH) / 2 + 0.5).clamp(0, 1)


def to_pil(pictures: torch.Tensor) -> list[Image.Image]:
    """Pictures [B, 3, H, W] in 0..1 -> PIL pictures."""
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


class DemoPipeline(DiffusionPipeline):
    """Class-conditional generation with classifier-free guidance, in the manner of the diffusers pipelines."""

    model_cpu_offload_seq = "class_table->unet"

    def __init__(self, unet: UNet2DConditionModel, class_table: ClassTable, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, class_table=class_table, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int | str] | torch.Tensor,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one picture per label (a class number or name).

        `latents` [B, 12, 32, 32] is unit noise. `output_type` is "pil", "pt" (pictures [B, 3, 64, 64] in 0..1) or
        "latent". A `guidance_scale` of 1 or less runs the conditional half alone.
        """
        labels = self.encode_labels(class_labels)
        guided = guidance_scale > 1
        prompts = self.class_table(
            torch.cat([torch.full_like(labels, self.class_table.null), labels]) if guided else labels
        )
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        latents = self.prepare_latents(len(labels), generator, latents)
        step_kwargs = {"eta": eta} if isinstance(self.scheduler, DDIMScheduler) else {}

        with self.progress_bar(total=num_inference_steps) as bar:
            for t in self.scheduler.timesteps:
                inputs = self.scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, t)
                output = self.unet(inputs, t, encoder_hidden_states=prompts).sample
                if guided:
                    uncond, cond = output.chunk(2)
                    output = uncond + guidance_scale * (cond - uncond)
                latents = self.scheduler.step(output, t, latents, **step_kwargs).prev_sample
                bar.update()

        images = latents if output_type == "latent" else to_pictures(latents)
        images = to_pil(images) if output_type == "pil" else images
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def encode_labels(self, class_labels: list[int | str] | torch.Tensor) -> torch.Tensor:
        """Class numbers or names -> int64 [B] on the pipeline's device."""
        if not isinstance(class_labels, torch.Tensor):
            class_labels = torch.tensor([CLASSES.index(c) if isinstance(c, str) else c for c in class_labels])
        return class_labels.to(self._execution_device)

    def prepare_latents(
        self, batch: int, generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None
    ) -> torch.Tensor:
        """The given or drawn unit noise [B, 12, 32, 32], scaled to the scheduler's first sigma."""
        config = self.unet.config
        shape = (batch, config.in_channels, config.sample_size, config.sample_size)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.unet.dtype)
        return latents.to(self._execution_device, self.unet.dtype) * self.scheduler.init_noise_sigma


def new_pipeline() -> DemoPipeline:
    """A pipeline with untrained weights."""
    return DemoPipeline(UNet2DConditionModel(**UNET_CONFIG), ClassTable(), DDIMScheduler(**SCHEDULER_CONFIG))


def pipeline_tensors(pipe: DemoPipeline) -> dict[str, torch.Tensor]:
    """The live weights by name, `unet.*` and `class_table.*`."""
    return nn.ModuleDict({"unet": pipe.unet, "class_table": pipe.class_table}).state_dict()


def save_demo(tensors: dict[str, torch.Tensor], path: Path, training: dict[str, Any]) -> None:
    """Write the weights in half precision, with the configs and the `training` record as metadata."""
    config = {"unet": UNET_CONFIG, "scheduler": SCHEDULER_CONFIG, "classes": CLASSES}
    halves = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
    save_file(halves, path, metadata={"config": json.dumps(config), "training": json.dumps(training)})


def load_demo(
    path: Path | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> DemoPipeline:
    """The shipped pipeline, or the one saved at `path`, ready to draw."""
    with safe_open(path or WEIGHTS, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    unet, table = UNet2DConditionModel(**config["unet"]), ClassTable(len(config["classes"]))
    modules = nn.ModuleDict({"unet": unet, "class_table": table})
    modules.load_state_dict(tensors)
    modules.eval().to(device, dtype)
    return DemoPipeline(unet, table, DDIMScheduler(**config["scheduler"]))


def load_demo_unet(
    path: Path | None = None, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> UNet2DConditionModel:
    """The U-Net of `load_demo` alone."""
    return load_demo(path, device, dtype).unet
