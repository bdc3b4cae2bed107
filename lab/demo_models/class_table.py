"""The demo U-Net's prompts: a learned one for each class."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .pictures import CLASSES

CLASS_TOKENS, CLASS_DIM = 4, 32


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
