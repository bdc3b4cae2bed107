"""The common part of the demo's pipelines: pictures as latents, classifier-free guidance, the sampling loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch.nn import functional as F

from ...pipelines.conditions import Conditions, class_numbers
from ...pipelines.prompts import NetworkArguments
from ...pipelines.runs import initial_scale, scaled_input, set_timesteps
from .pictures import CLASSES

PATCH = 2
"""Each 2x2 block of pixels is one latent pixel, so a 64x64 picture is a 12 x 32 x 32 latent."""
LATENT_CHANNELS, LATENT_SIZE = 3 * PATCH**2, 32
LATENT_SHAPE = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
_NUMBERS = {name: number for number, name in enumerate((*CLASSES, ""))}
"""Numbers of the classes and of the empty prompt."""


def to_latents(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures uint8 [B, 3, H, W] -> latents [B, 12, H/2, W/2] in -1..1.

    Example:
        >>> to_latents(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([1, 12, 32, 32])
    """
    return F.pixel_unshuffle(pictures.float() / 127.5 - 1, PATCH)


def to_pictures(latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, 12, h, w] -> pictures [B, 3, 2h, 2w] in 0..1.

    Example:
        >>> pictures = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
        >>> torch.equal((to_pictures(to_latents(pictures)) * 255).round().byte(), pictures)
        True
    """
    return (F.pixel_shuffle(latents.float(), PATCH) / 2 + 0.5).clamp(0, 1)


def to_pil(pictures: torch.Tensor) -> list[Image.Image]:
    """Pictures [B, 3, H, W] in 0..1 -> PIL pictures.

    Example:
        >>> to_pil(torch.ones(1, 3, 4, 8))[0].size
        (8, 4)
    """
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


class IconPipeline(DiffusionPipeline):
    """Draws pictures of prompts with classifier-free guidance, in the manner of the diffusers pipelines.

    Each demo model has a subclass, which defines how prompts are encoded for its network (`encode`).

    Example:
        >>> from .model import load_demo
        >>> pipe = load_demo("dit")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(["sun", "moon"], num_inference_steps=1, output_type="pt").images.shape
        torch.Size([2, 3, 64, 64])
    """

    @property
    @abstractmethod
    def network(self) -> Any:
        """The denoiser."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> NetworkArguments:
        """The arguments by which the network knows what to draw: tensors with one row per prompt.

        Args:
            prompts: class names, or captions; "" is the empty prompt of classifier-free guidance.
        """

    def predict(self, latents: torch.Tensor, t: torch.Tensor, arguments: NetworkArguments) -> torch.Tensor:
        """The velocity [B, 12, 32, 32].

        Args:
            latents: [B, 12, 32, 32].
            t: timesteps [] or [B].
            arguments: of :meth:`encode`, B rows.
        """
        return self.network(latents, timestep=t.expand(len(latents)), **arguments).sample

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[int | str] | torch.Tensor,
        num_inference_steps: int = 50,
        guidance_scale: float = 3.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one picture per prompt.

        Args:
            prompt: numbers or names of classes; captions, if the model takes them.
            num_inference_steps: of the scheduler.
            guidance_scale: 1 or less runs the conditional half alone.
            generator: of the noise.
            latents: unit noise [B, 12, 32, 32], instead of drawing some.
            eta: of DDIM.
            output_type: "pil", "pt" (pictures [B, 3, 64, 64] in 0..1) or "latent".
            return_dict: return an `ImagePipelineOutput`; otherwise a tuple.
        """
        prompts, guided = as_prompts(prompt), guidance_scale > 1
        arguments = self.encode([""] * len(prompts) + prompts if guided else prompts)
        set_timesteps(self.scheduler, num_inference_steps, self.network, LATENT_SHAPE)
        latents = self.prepare_latents(len(prompts), generator, latents)
        step_kwargs = {"eta": eta} if isinstance(self.scheduler, DDIMScheduler) else {}

        with self.progress_bar(total=num_inference_steps) as bar:
            for t in self.scheduler.timesteps:
                inputs = scaled_input(self.scheduler, torch.cat([latents] * 2) if guided else latents, t)
                output = self.predict(inputs, t, arguments)
                if guided:
                    uncond, cond = output.chunk(2)
                    output = uncond + guidance_scale * (cond - uncond)
                latents = self.scheduler.step(output, t, latents, **step_kwargs).prev_sample
                bar.update()

        images = latents if output_type == "latent" else to_pictures(latents)
        images = to_pil(images) if output_type == "pil" else images
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def prepare_latents(
        self, batch: int, generator: torch.Generator | list[torch.Generator] | None, latents: torch.Tensor | None
    ) -> torch.Tensor:
        """Unit noise [B, 12, 32, 32], given or drawn, scaled to the scheduler's first sigma.

        Args:
            batch: B.
            generator: of the noise.
            latents: unit noise, instead of drawing some.
        """
        if latents is None:
            how = {"device": self._execution_device, "dtype": self.network.dtype}
            latents = randn_tensor((batch, *LATENT_SHAPE), generator=generator, **how)
        return latents.to(self._execution_device, self.network.dtype) * initial_scale(self.scheduler)

    def conditions(self, prompts: list[str]) -> Conditions:
        """What mask training needs: the network's arguments for these prompts, or for all classes."""
        asked = as_prompts(prompts) or list(CLASSES)
        return Conditions(self.encode(asked), self.encode([""]), len(asked))

    def labels(self, prompts: Sequence[str]) -> torch.Tensor:
        """Class names -> int64 [B] on the pipeline's device."""
        return torch.tensor(class_numbers(list(prompts), _NUMBERS, len(CLASSES)), device=self._execution_device)


def as_prompts(given: str | Sequence[int | str] | torch.Tensor) -> list[str]:
    """Prompts as texts: numbers of classes become names.

    Args:
        given: one text, or several numbers and texts.

    Example:
        >>> as_prompts(torch.tensor([0, 3])), as_prompts("a red heart"), as_prompts(["1"])
        (['sun', 'heart'], ['a red heart'], ['moon'])
    """
    items = [given] if isinstance(given, str) else given.tolist() if isinstance(given, torch.Tensor) else given
    named = dict(enumerate(CLASSES)) | {str(n): name for n, name in enumerate(CLASSES)}
    return [str(named.get(item, item)) for item in items]
