"""The network that a recipe runs on, as all parts see it."""

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
        family: what it is.
        key_bias: how this host's attention takes a bias on the key logits; None where it takes none.
        observer: called with all pairs that are searched (:class:`.token_part.PairsFound`).
    """

    root: nn.Module
    family: Family
    key_bias: KeyBias | None = None
    observer: Callable[[Any], None] | None = None

    @classmethod
    def of(
        cls, root: nn.Module, key_bias: KeyBias | None = None, observer: Callable[[Any], None] | None = None
    ) -> Network:
        """Recognise a model. Raises :class:`ModelError` for one of no known family."""
        family = recognise(root)
        return cls(root, family, key_bias or family.key_bias, observer)
