"""The prompts of the shipped small models: tokens, and the network that encodes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..lab.demo_models.encoders import CaptionLayers, ClassPrompts
from ..lab.demo_models.words import class_number, tokenize


class Prompts:
    """The tokenizer of `comfy.sd.CLIP`, and the network behind it.

    Args:
        read: a text -> its tokens.
        network: tokens int64 [1, n] -> hidden states.
        tensors: the network's weights by name.
    """

    def __init__(self, read: Callable[[str], list[int]], network: nn.Module, tensors: dict[str, Tensor]) -> None:
        self._read = read
        self.network = network.eval().requires_grad_(False)
        self.network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options: Any) -> dict[str, Any]:
        """The tokens of a text, each of weight 1.

        Args:
            text: a class or caption.
            return_word_ids: whether each token comes with the number of its word, which is 0 here.
            options: of ComfyUI; they change nothing.
        """
        return {"icons": [[(token, 1.0, *[0] * return_word_ids) for token in self._read(text)]]}


def prompts_of(kind: str, tensors: dict[str, Tensor]) -> Prompts:
    """The prompts of a shipped model.

    Args:
        kind: "unet" or "flow".
        tensors: its weights by name.
    """
    if kind == "unet":
        return Prompts(lambda text: [class_number(text)], ClassPrompts(), part_of(tensors, "class_table."))
    return Prompts(lambda text: tokenize([text])[0].tolist(), CaptionLayers(), part_of(tensors, "text_encoder."))


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning.

    Args:
        tensors: by name.
        prefix: the beginning.
    """
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
