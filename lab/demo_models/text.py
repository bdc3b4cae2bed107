"""The demo models' prompts as parts of a diffusers pipeline, which loads and saves them."""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from .encoders import CLASS_DIM, CLASS_TOKENS, TEXT_DIM, CaptionLayers, ClassPrompts
from .pictures import CLASSES


class ClassTable(ClassPrompts, ModelMixin, ConfigMixin):
    """The U-Net's prompts (:class:`ClassPrompts`).

    Args:
        classes: number of classes.
        tokens: tokens of a prompt.
        dim: channels of a token.

    Example:
        >>> ClassTable(classes=3).config["classes"]
        3
    """

    @register_to_config
    def __init__(self, classes: int = len(CLASSES), tokens: int = CLASS_TOKENS, dim: int = CLASS_DIM) -> None:
        super().__init__(classes, tokens, dim)


class CaptionEncoder(CaptionLayers, ModelMixin, ConfigMixin):
    """The flow model's text encoder (:class:`CaptionLayers`).

    Args:
        dim: channels of a token.
        heads: of its attention.

    Example:
        >>> CaptionEncoder(dim=32).config["dim"]
        32
    """

    @register_to_config
    def __init__(self, dim: int = TEXT_DIM, heads: int = 2) -> None:
        super().__init__(dim, heads)
