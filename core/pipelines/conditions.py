"""What a diffusers pipeline's samples are of: the keyword arguments of its network, for each prompt or class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ModelError, RecipeError

PROMPTS = (
    "a photograph of a cat on a sofa",
    "a wide mountain landscape at dawn, oil painting",
    "a portrait of an old sailor, studio light",
    "a bowl of fruit on a wooden table, watercolour",
)
_IMAGENET = 1000

Arguments = dict[str, Any]
"""Keyword arguments of a network: tensors [n, ...], None, or dicts of these."""


@dataclass(frozen=True)
class Conditions:
    """Arguments for n conditionings, and for the empty one (one row) of classifier-free guidance where there is one."""

    arguments: Arguments
    empty: Arguments | None = None
    count: int = 1

    def __len__(self) -> int:
        return self.count

    def rows(self, which: Sequence[int], guided: bool) -> Arguments:
        """The arguments of a batch; with guidance the empty conditioning for as many samples first."""
        chosen = _mapped(self.arguments, lambda t: t[list(which)])
        if not guided or self.empty is None:
            return chosen
        empty = _mapped(self.empty, lambda t: t.expand(len(which), *t.shape[1:]))
        return _joined(empty, chosen)


def _mapped(arguments: Arguments, change: Callable[[Tensor], Tensor]) -> Arguments:
    return {
        k: _mapped(v, change) if isinstance(v, dict) else None if v is None else change(v) for k, v in arguments.items()
    }


def _joined(first: Arguments, second: Arguments) -> Arguments:
    joined: Arguments = {}
    for name, value in second.items():
        if isinstance(value, dict):
            joined[name] = _joined(first[name], value)
        else:
            joined[name] = None if value is None else torch.cat([first[name], value])
    return joined


def given(embeddings: Tensor, empty: Tensor | None = None, **more: Any) -> Conditions:
    """Conditionings given as embeddings [n, tokens, channels]; empty [1, tokens, channels]."""
    arguments = {"encoder_hidden_states": embeddings, **more}
    return Conditions(arguments, None if empty is None else {"encoder_hidden_states": empty, **more}, len(embeddings))


def read_embeddings(path: Path, device: str = "cpu") -> Conditions:
    """A safetensors file with `embeddings` [n, tokens, channels], `empty` [1, tokens, channels] where guidance is wanted.

    Raises :class:`RecipeError` for another file.
    """
    try:
        tensors = load_file(path, device=device)
        return given(tensors["embeddings"], tensors.get("empty"))
    except (OSError, SafetensorError, KeyError):
        raise RecipeError(
            f"no embeddings in {str(path)!r}: give a safetensors file with `embeddings` and `empty`"
        ) from None


def conditions_of(pipe: Any, prompts: Sequence[str] = (), size: int | None = None) -> Conditions:
    """A pipeline's conditionings for these prompts or classes. Raises :class:`ModelError` for an unknown pipeline."""
    for kinds, make in _MAKERS:
        if any(kind.__name__ in kinds for kind in type(pipe).__mro__):
            with torch.no_grad():
                return make(pipe, list(prompts), size)
    known = ", ".join(kind for kinds, _ in _MAKERS for kind in kinds)
    raise ModelError(f"{type(pipe).__name__} cannot be trained on: use one of {known}")


def guidance_of(pipe: Any) -> float:
    """The pipeline's own guidance scale; 1 where it has none."""
    parameter = inspect.signature(pipe.__call__).parameters.get("guidance_scale")
    return (
        float(parameter.default) if parameter is not None and parameter.default is not inspect.Parameter.empty else 1.0
    )


def latent_shape(pipe: Any, network: Any, size: int | None = None) -> tuple[int, ...]:
    """The shape of one latent. size: picture side in pixels, the model's own by default."""
    own = network.config.sample_size
    sides = (own, own) if isinstance(own, int) else tuple(own)
    if size is not None:
        scale = getattr(pipe, "vae_scale_factor", None) or _pixels(pipe) // sides[0]
        sides = (size // scale, size // scale)
    return (network.config.in_channels, *sides)


def _pixels(pipe: Any) -> int:
    """Side of the pictures of a pipeline that does not tell its scale: its latents are pixels, or the demo's."""
    own = _network_size(pipe)
    return 2 * own if hasattr(pipe, "network") else own


def _network_size(pipe: Any) -> int:
    network = getattr(pipe, "unet", None) or pipe.transformer
    return int(network.config.sample_size)


def _icons(pipe: Any, prompts: list[str], size: int | None) -> Conditions:
    from ..demo.pictures import CLASSES
    from ..demo.pipeline import NULL

    names = [int(p) if p.isdigit() else p for p in prompts] or list(range(len(CLASSES)))
    labels, null = pipe.encode_labels(names), pipe.encode_labels([NULL])
    if hasattr(pipe, "class_table"):
        return given(pipe.class_table(labels), pipe.class_table(null))
    return Conditions({"class_labels": labels}, {"class_labels": null}, len(labels))


def _classes(pipe: Any, prompts: list[str], size: int | None) -> Conditions:
    count = pipe.transformer.config.num_embeds_ada_norm
    names = [int(p) if p.isdigit() else pipe.get_label_ids([p])[0] for p in prompts]
    device = pipe.transformer.device
    labels = torch.tensor(names, device=device) if names else torch.arange(min(count, _IMAGENET), device=device)
    return Conditions({"class_labels": labels}, {"class_labels": torch.full((1,), count, device=device)}, len(labels))


def _unconditional(pipe: Any, prompts: list[str], size: int | None) -> Conditions:
    classes = getattr(pipe.unet.config, "num_class_embeds", None)
    if classes:
        return Conditions({"class_labels": torch.arange(classes, device=pipe.unet.device)}, None, classes)
    return Conditions({})


def _stable_diffusion(pipe: Any, prompts: list[str], size: int | None) -> Conditions:
    texts = prompts or list(PROMPTS)
    embeds, _ = pipe.encode_prompt(texts, pipe.unet.device, 1, False)
    empty, _ = pipe.encode_prompt([""], pipe.unet.device, 1, False)
    return given(embeds, empty)


def _sdxl(pipe: Any, prompts: list[str], size: int | None) -> Conditions:
    side = size or pipe.unet.config.sample_size * pipe.vae_scale_factor
    texts = prompts or list(PROMPTS)

    def arguments(words: list[str]) -> Arguments:
        embeds, _, pooled, _ = pipe.encode_prompt(words, device=pipe.unet.device, do_classifier_free_guidance=False)
        ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=embeds.dtype, device=embeds.device)
        return {
            "encoder_hidden_states": embeds,
            "added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids.expand(len(words), -1)},
        }

    empty = arguments([""])
    if pipe.config.get("force_zeros_for_empty_prompt", True):
        empty = {
            "encoder_hidden_states": torch.zeros_like(empty["encoder_hidden_states"]),
            "added_cond_kwargs": {
                **empty["added_cond_kwargs"],
                "text_embeds": torch.zeros_like(empty["added_cond_kwargs"]["text_embeds"]),
            },
        }
    return Conditions(arguments(texts), empty, len(texts))


def _pixart(pipe: Any, prompts: list[str], size: int | None) -> Conditions:
    side = float(size or pipe.transformer.config.sample_size * pipe.vae_scale_factor)
    extra = pipe.transformer.config.sample_size == 128 and type(pipe).__name__ == "PixArtAlphaPipeline"

    def arguments(words: list[str]) -> Arguments:
        embeds, mask, _, _ = pipe.encode_prompt(words, do_classifier_free_guidance=False)
        rows = len(words)
        resolution = torch.tensor([[side, side]], dtype=embeds.dtype, device=embeds.device).expand(rows, -1)
        ratio = torch.ones(rows, 1, dtype=embeds.dtype, device=embeds.device)
        added = {"resolution": resolution if extra else None, "aspect_ratio": ratio if extra else None}
        return {"encoder_hidden_states": embeds, "encoder_attention_mask": mask, "added_cond_kwargs": added}

    texts = prompts or list(PROMPTS)
    return Conditions(arguments(texts), arguments([""]), len(texts))


def _sd3(pipe: Any, prompts: list[str], size: int | None) -> Conditions:
    def arguments(words: list[str]) -> Arguments:
        embeds, _, pooled, _ = pipe.encode_prompt(words, None, None, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

    texts = prompts or list(PROMPTS)
    return Conditions(arguments(texts), arguments([""]), len(texts))


_MAKERS: tuple[tuple[tuple[str, ...], Callable[[Any, list[str], int | None], Conditions]], ...] = (
    (("IconPipeline",), _icons),
    (("DiTPipeline",), _classes),
    (("StableDiffusionXLPipeline",), _sdxl),
    (("StableDiffusionPipeline",), _stable_diffusion),
    (("PixArtAlphaPipeline", "PixArtSigmaPipeline"), _pixart),
    (("StableDiffusion3Pipeline",), _sd3),
    (("DDPMPipeline", "DDIMPipeline", "LDMPipeline"), _unconditional),
)
