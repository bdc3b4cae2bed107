"""The shipped U-Net in AUTOMATIC1111's own classes, which the config beside its checkpoint names (:mod:`.webui_checkpoint`).

The web UI imports this file from the extension's folder when it loads that checkpoint. Its latents are one eighth of the
picture in size, and the model's are one half, so that its pictures of 64 x 64 pixels are enlarged four times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ldm.models.diffusion.ddpm import LatentDiffusion
from ldm.modules import attention
from ldm.modules.diffusionmodules import openaimodel
from torch import Tensor, nn
from torch.nn import functional

from ..lab.demo_models.encoders import CLASS_DIM, ClassPrompts
from ..lab.demo_models.words import class_number

PATCH, ENLARGED = 2, 4
"""Side of the block of pixels that is one latent pixel, and how many times larger the web UI's pictures are."""
_GROUPS = 16


class IconModel(LatentDiffusion):
    """The web UI's model, with latents of twelve channels."""

    latent_channels = 3 * PATCH**2


class _Width(int):
    """Channels of a level: `ldm` multiplies the narrowest by a whole factor; times anything this is itself."""

    def __mul__(self, other: Any) -> int:
        return int(self)

    __rmul__ = __mul__


class UNetModel(openaimodel.UNetModel):
    """`ldm`'s U-Net with the shipped model's widths, heads and groups of its norms. It is recognised by its name.

    Args:
        widths: channels of the levels.
        heads: of attention at each width.
        options: of `ldm`'s class.
    """

    def __init__(self, widths: Sequence[int], heads: Sequence[int], **options: Any) -> None:
        with _norms():
            super().__init__(model_channels=widths[0], channel_mult=[_Width(w) for w in widths], num_heads=1, **options)
        of_width = dict(zip(widths, heads, strict=True))
        for module in self.modules():
            if isinstance(module, attention.CrossAttention):
                width = module.to_q.in_features
                module.heads, module.scale = of_width[width], (width // of_width[width]) ** -0.5


@contextmanager
def _norms() -> Iterator[None]:
    """Norms of as many groups as the model was trained with."""
    before = openaimodel.normalization, attention.Normalize
    openaimodel.normalization = lambda channels: nn.GroupNorm(_GROUPS, channels)
    attention.Normalize = lambda channels: nn.GroupNorm(_GROUPS, channels, eps=1e-6)
    try:
        yield
    finally:
        openaimodel.normalization, attention.Normalize = before


class IconPrompts(ClassPrompts):
    """The prompts, as the web UI calls its text models."""

    is_trainable = False

    def forward(self, texts: Any) -> Tensor:
        """Texts -> hidden states [B, tokens, dim]. An unknown name is the empty prompt."""
        labels = [class_number(text) for text in texts]
        return super().forward(torch.tensor(labels, device=self.table.weight.device))

    def encode(self, texts: Any) -> Tensor:
        """The same."""
        return self(texts)

    def encode_embedding_init_text(self, text: str, tokens: int) -> Tensor:
        """What a textual inversion would begin with, [tokens, channels]; there are none of this model.

        Args:
            text: of the inversion.
            tokens: its length.
        """
        return torch.zeros(tokens, CLASS_DIM)

    def process_texts(self, texts: Sequence[str]) -> tuple[list[Any], int]:
        """Chunks and number of tokens, for the counter beside the prompt."""
        return [], 1

    def get_target_prompt_token_count(self, count: int) -> int:
        """How many tokens there is room for."""
        return 1


class Pixels(nn.Module):
    """In place of a VAE: latents [B, 12, h, w] are pixels [B, 3, 2h, 2w], shown four times as large."""

    def __init__(self, **options: Any) -> None:
        """A parameter, because the web UI reads the type from it."""
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.anchor.dtype

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures in -1..1 to latents."""
        small = functional.interpolate(pictures, scale_factor=1 / ENLARGED, mode="area")
        return functional.pixel_unshuffle(small, PATCH)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures in -1..1."""
        pixels = functional.pixel_shuffle(latents, PATCH)
        return functional.interpolate(pixels, scale_factor=float(ENLARGED), mode="bicubic").clamp(-1, 1)
