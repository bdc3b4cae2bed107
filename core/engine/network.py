"""The network that a recipe runs on, with its family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..models import Family, KeyBias, recognise
from .kernel import KernelHost


@dataclass(frozen=True)
class Network:
    """A model of a known family.

    Args:
        root: the U-Net or transformer.
        family: its family.
        key_bias: how the host's attention takes a bias on the key logits; None if it takes none.
        observer: called with all pairs that are searched (:class:`skipstone.core.engine.token_part.PairsFound`).
        kernels: how the host's attention kernels are reached; None if they are not.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> Network.of(DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2)).family.name
        'diffusers DiT'
    """

    root: nn.Module
    family: Family
    key_bias: KeyBias | None = None
    observer: Callable[[Any], None] | None = None
    kernels: KernelHost | None = None

    @classmethod
    def of(
        cls,
        root: nn.Module,
        key_bias: KeyBias | None = None,
        observer: Callable[[Any], None] | None = None,
        anything: bool = False,
        kernels: KernelHost | None = None,
    ) -> Network:
        """Recognise a model. Raises :class:`ModelError` for an unknown one.

        Args:
            root: the U-Net or transformer.
            key_bias: replaces the family's own way.
            observer: called with all pairs that are searched.
            anything: accept networks of unknown families, of which only whole calls can be skipped.
            kernels: how the host's attention kernels are reached.
        """
        family = recognise(root, anything)
        return cls(root, family, key_bias or family.key_bias, observer, kernels)
