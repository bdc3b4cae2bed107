"""The networks behind the demo models' prompts, in plain PyTorch: the ComfyUI node has no diffusers."""

from __future__ import annotations

import torch
from torch import nn

from .pictures import CLASSES
from .words import LENGTH, PAD, START, WORDS

CLASS_TOKENS, CLASS_DIM = 4, 32
TEXT_DIM = 64


class ClassPrompts(nn.Module):
    """A learned prompt for each class; the last row is the empty prompt of classifier-free guidance.

    Args:
        classes: number of classes.
        tokens: of a prompt.
        dim: channels of a token.

    Example:
        >>> ClassPrompts(classes=3)(torch.tensor([0, 3])).shape
        torch.Size([2, 4, 32])
    """

    def __init__(self, classes: int = len(CLASSES), tokens: int = CLASS_TOKENS, dim: int = CLASS_DIM) -> None:
        super().__init__()
        self.table = nn.Embedding(classes + 1, tokens * dim)
        self.tokens = tokens

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels int64 [B] or [B, 1] -> encoder hidden states [B, tokens, dim]."""
        return self.table(labels.flatten()).unflatten(1, (self.tokens, -1))


class CaptionLayers(nn.Module):
    """Embeddings of words and places, and one transformer layer over them.

    Args:
        dim: channels of a token.
        heads: of the attention.

    Example:
        >>> from .words import tokenize
        >>> tokens, pooled = CaptionLayers()(tokenize(["a red heart"]))
        >>> tokens.shape, pooled.shape
        (torch.Size([1, 10, 64]), torch.Size([1, 64]))
    """

    def __init__(self, dim: int = TEXT_DIM, heads: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(START + 1 + len(WORDS), dim)
        self.places = nn.Parameter(torch.randn(LENGTH, dim) * 0.1)
        self.layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [B, LENGTH] -> encoder hidden states [B, LENGTH, dim], and their mean over the words [B, dim]."""
        padding = tokens == PAD
        hidden = self.norm(self.layer(self.words(tokens) + self.places, src_key_padding_mask=padding))
        real = (~padding).unsqueeze(-1).to(hidden.dtype)
        return hidden, (hidden * real).sum(1) / real.sum(1)
