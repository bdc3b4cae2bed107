"""Converts prompts to the keyword arguments of a pipeline's network, for each kind of text-to-image pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..core.errors import ModelError
from .network import network_of

NetworkArguments = dict[str, Any]
"""Keyword arguments of a network: tensors [n, ...], None, or dicts of these."""


@dataclass(frozen=True)
class Encoded:
    """The text encoders' output for n prompts.

    Args:
        tokens: [n, tokens, channels].
        pooled: [n, channels].
        mask: [n, tokens], nonzero for real tokens.

    Example:
        >>> len(Encoded(torch.zeros(2, 77, 768)).tokens)  # two prompts
        2
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class TextKind:
    """A kind of text-to-image pipeline.

    Args:
        names: class names of the pipelines.
        encoders: components that must be present to encode prompts.
        encode: (pipeline, prompts) -> encoded prompts.
        arguments: (pipeline, encoded prompts, picture side in pixels or None) -> keyword arguments of the network.
        pooled: whether the network needs pooled texts.
        empty: (pipeline, the encoded "") -> the pipeline's empty prompt for classifier-free guidance.

    Example:
        >>> kind = TextKind(("Pipe",), (), lambda pipe, prompts: Encoded(torch.zeros(len(prompts), 77, 8)), _tokens)
        >>> kind.encoded(None, ["a cat", "a dog"]).tokens.shape
        torch.Size([2, 77, 8])
    """

    names: tuple[str, ...]
    encoders: tuple[str, ...]
    encode: Callable[[Any, list[str]], Encoded]
    arguments: Callable[[Any, Encoded, int | None], NetworkArguments]
    pooled: bool = False
    empty: Callable[[Any, Encoded], Encoded] = lambda pipe, encoded: encoded

    def encoded(self, pipe: Any, prompts: list[str]) -> Encoded:
        """Encode prompts.

        Args:
            pipe: a diffusers pipeline of this kind.
            prompts: texts.

        Raises :class:`ModelError` if the model has no text encoder.
        """
        if any(getattr(pipe, name, None) is None for name in self.encoders):
            raise ModelError(f"this model has no {' or '.join(self.encoders)}: give --embeddings")
        return self.encode(pipe, prompts)


def _side(pipe: Any, size: int | None) -> int:
    """Return the picture's side in pixels."""
    return size or int(network_of(pipe).config.sample_size) * int(pipe.vae_scale_factor)


def _tokens(pipe: Any, encoded: Encoded, size: int | None) -> NetworkArguments:
    return {"encoder_hidden_states": encoded.tokens}


def _encode_ldm(pipe: Any, prompts: list[str]) -> Encoded:
    words = pipe.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    return Encoded(pipe.bert(words.input_ids.to(pipe.unet.device))[0])


def _encode_sd(pipe: Any, prompts: list[str]) -> Encoded:
    return Encoded(pipe.encode_prompt(prompts, pipe.unet.device, 1, False)[0])


def _encode_sdxl(pipe: Any, prompts: list[str]) -> Encoded:
    tokens, _, pooled, _ = pipe.encode_prompt(prompts, device=pipe.unet.device, do_classifier_free_guidance=False)
    return Encoded(tokens, pooled)


def _sdxl_arguments(pipe: Any, encoded: Encoded, size: int | None) -> NetworkArguments:
    side, tokens = _side(pipe, size), encoded.tokens
    ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=tokens.dtype, device=tokens.device)
    added = {"text_embeds": encoded.pooled, "time_ids": ids.expand(len(tokens), -1)}
    return {**_tokens(pipe, encoded, size), "added_cond_kwargs": added}


def _sdxl_empty(pipe: Any, encoded: Encoded) -> Encoded:
    if not pipe.config.get("force_zeros_for_empty_prompt", True):
        return encoded
    pooled = None if encoded.pooled is None else torch.zeros_like(encoded.pooled)
    return replace(encoded, tokens=torch.zeros_like(encoded.tokens), pooled=pooled)


def _can_clean() -> bool:
    """Return whether the packages with which pipelines clean captions are installed; pipelines warn if not."""
    return all(find_spec(name) is not None for name in ("bs4", "ftfy"))


def _encode_pixart(pipe: Any, prompts: list[str]) -> Encoded:
    how = {"do_classifier_free_guidance": False, "device": pipe.transformer.device, "clean_caption": _can_clean()}
    tokens, mask, _, _ = pipe.encode_prompt(prompts, **how)
    return Encoded(tokens, mask=mask)


def _pixart_arguments(pipe: Any, encoded: Encoded, size: int | None) -> NetworkArguments:
    added: NetworkArguments = {"resolution": None, "aspect_ratio": None}
    if type(pipe).__name__ == "PixArtAlphaPipeline" and pipe.transformer.config.sample_size == 128:
        side, rows = float(_side(pipe, size)), len(encoded.tokens)
        added = {
            "resolution": encoded.tokens.new_full((rows, 2), side),
            "aspect_ratio": encoded.tokens.new_ones(rows, 1),
        }
    return {
        **_tokens(pipe, encoded, size),
        "encoder_attention_mask": encoded.mask,
        "added_cond_kwargs": added,
    }


def _encode_sd3(pipe: Any, prompts: list[str]) -> Encoded:
    device = pipe.transformer.device
    tokens, _, pooled, _ = pipe.encode_prompt(prompts, None, None, device, do_classifier_free_guidance=False)
    return Encoded(tokens, pooled)


def _sd3_arguments(pipe: Any, encoded: Encoded, size: int | None) -> NetworkArguments:
    return {**_tokens(pipe, encoded, size), "pooled_projections": encoded.pooled}


PLAIN_TEXT = TextKind(("StableDiffusionPipeline",), ("text_encoder",), _encode_sd, _tokens)
TEXT_KINDS = (
    PLAIN_TEXT,
    TextKind(
        ("StableDiffusionXLPipeline",), ("text_encoder_2",), _encode_sdxl, _sdxl_arguments, True, empty=_sdxl_empty
    ),
    TextKind(("PixArtAlphaPipeline", "PixArtSigmaPipeline"), ("text_encoder",), _encode_pixart, _pixart_arguments),
    TextKind(("StableDiffusion3Pipeline",), ("text_encoder", "text_encoder_2"), _encode_sd3, _sd3_arguments, True),
    TextKind(("LDMTextToImagePipeline",), ("bert",), _encode_ldm, _tokens),
)
