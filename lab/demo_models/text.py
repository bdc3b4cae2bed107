"""The flow model's text encoder: a fixed vocabulary of words, and a transformer layer over their embeddings."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .pictures import BACKGROUNDS, CLASSES, COLOURS

PAD, START = 0, 1
"""Tokens that stand for no word: behind the caption, and before it."""
WORDS = ("a", "an", "the", "on", "background", *CLASSES, *COLOURS, *BACKGROUNDS)
"""The vocabulary; the first word has the number after START."""
LENGTH = 10
"""Tokens of a caption, START included."""
TEXT_DIM = 64


def tokenize(captions: Sequence[str]) -> torch.Tensor:
    """Captions -> tokens int64 [B, LENGTH]. Warns of words that are not in the vocabulary, and leaves them out.

    Args:
        captions: texts; "" for the empty prompt of classifier-free guidance.

    Example:
        >>> tokenize(["A heart, on teal!", ""]).tolist()
        [[1, 2, 10, 5, 29, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    """
    split = [re.findall(r"\w+", caption.lower()) for caption in captions]
    _warn(split)
    rows = [[START, *(START + 1 + WORDS.index(word) for word in words if word in WORDS)][:LENGTH] for words in split]
    return torch.tensor([row + [PAD] * (LENGTH - len(row)) for row in rows])


def _warn(split: Sequence[Sequence[str]]) -> None:
    unknown = dict.fromkeys(word for words in split for word in words if word not in WORDS)
    if unknown:
        warnings.warn(f"the flow model does not know {', '.join(unknown)}: it knows {' '.join(WORDS)}", stacklevel=3)
    if any(sum(word in WORDS for word in words) >= LENGTH for words in split):
        warnings.warn(f"the flow model reads the first {LENGTH - 1} words of a caption only", stacklevel=3)


class CaptionEncoder(ModelMixin, ConfigMixin):
    """Embeddings of words and places, and one transformer layer over them.

    Args:
        dim: channels of a token.
        heads: of the attention.

    Example:
        >>> tokens, pooled = CaptionEncoder()(tokenize(["a red heart"]))
        >>> tokens.shape, pooled.shape
        (torch.Size([1, 10, 64]), torch.Size([1, 64]))
    """

    @register_to_config
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
