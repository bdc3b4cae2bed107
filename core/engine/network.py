"""The network that a recipe runs on, with its family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..models import Family, KeyBias, recognise


@dataclass(frozen=True)
class Network:
    """A model of a known family.

    Args:
        root: the U-Net or transformer.
        family: its family.
        key_bias: how the host's attention takes a bias on the key logits; None if it takes none.
        observer: called with all pairs that are searched (:class:`skipstone.core.engine.token_part.PairsFound`).

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> Network.of(DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2)).family.name
        'diffusers DiT'
    """

    root: nn.Module
    family: Family
    key_bias: KeyBias | None = None
    observer: Callable[[Any], None] | None = None

    @classmethod
    def of(
        cls,
        root: nn.Module,
        key_bias: KeyBias | None = None,
        observer: Callable[[Any], None] | None = None,
        anything: bool = False,
    ) -> Network:
        """Recognise a model. Raises :class:`ModelError` for an unknown one.

        Args:
            root: the U-Net or transformer.
            key_bias: replaces the family's own way.
            observer: called with all pairs that are searched.
            anything: accept networks of unknown families, of which only whole calls can be skipped.
        """
        family = recognise(root, anything)
        return cls(root, family, key_bias or family.key_bias, observer)
