"""The conditionings of a pipeline's samples: keyword arguments of its network, for each prompt or class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..core.errors import ModelError, RecipeError
from .network import network_of
from .prompts import PLAIN_TEXT, TEXT_KINDS, Encoded, NetworkArguments, TextKind

PROMPTS = (
    "a photograph of a cat on a sofa",
    "a wide mountain landscape at dawn, oil painting",
    "a portrait of an old sailor, studio light",
    "a bowl of fruit on a wooden table, watercolour",
)
_IMAGENET = 1000


@dataclass(frozen=True)
class Conditions:
    """Keyword arguments of a network for n conditionings.

    Args:
        arguments: tensors with n rows.
        empty: the same with one row, for classifier-free guidance; None without it.
        count: n.

    Example:
        >>> Conditions({"class_labels": torch.tensor([3, 8])}, count=2).rows([1], guided=False)
        {'class_labels': tensor([8])}
    """

    arguments: NetworkArguments
    empty: NetworkArguments | None = None
    count: int = 1

    def __len__(self) -> int:
        return self.count

    def rows(self, which: Sequence[int], guided: bool) -> NetworkArguments:
        """Return the arguments of a batch. With guidance, as many empty conditionings come first.

        Args:
            which: number of each sample's conditioning.
            guided: whether to use classifier-free guidance.
        """
        chosen = _mapped(self.arguments, lambda t: t[list(which)])
        if not guided or self.empty is None:
            return chosen
        empty = _mapped(self.empty, lambda t: t.expand(len(which), *t.shape[1:]))
        return _joined(empty, chosen)


def _mapped(arguments: NetworkArguments, change: Callable[[Tensor], Tensor]) -> NetworkArguments:
    return {
        k: _mapped(v, change) if isinstance(v, dict) else None if v is None else change(v) for k, v in arguments.items()
    }


def _joined(first: NetworkArguments, second: NetworkArguments) -> NetworkArguments:
    joined: NetworkArguments = {}
    for name, value in second.items():
        if isinstance(value, dict):
            joined[name] = _joined(first[name], value)
        else:
            joined[name] = None if value is None else torch.cat([first[name], value])
    return joined


def from_embeddings(embeddings: Tensor, empty: Tensor | None = None, **more: Any) -> Conditions:
    """Return conditionings made of text embeddings.

    Args:
        embeddings: [n, tokens, channels].
        empty: [1, tokens, channels], for classifier-free guidance.
        more: further arguments of the network.

    Example:
        >>> len(from_embeddings(torch.zeros(3, 77, 8)))
        3
    """
    arguments = {"encoder_hidden_states": embeddings, **more}
    return Conditions(arguments, None if empty is None else {"encoder_hidden_states": empty, **more}, len(embeddings))


def conditions_of(
    pipe: Any, prompts: Sequence[str] = (), size: int | None = None, embeddings: Path | None = None
) -> Conditions:
    """Return a pipeline's conditionings for these prompts or classes, or from a file of embeddings.

    Args:
        pipe: a diffusers pipeline.
        prompts: texts, or class names and numbers; the pipeline's own classes or four texts by default.
        size: picture side in pixels; the model's own by default.
        embeddings: a safetensors file with `embeddings` [n, tokens, channels] and, for guidance, `empty`
            [1, tokens, channels]. SDXL and SD3 also need `pooled` [n, channels] and `empty_pooled`; PixArt takes `mask`
            [n, tokens] and `empty_mask`.

    Raises :class:`ModelError` for an unknown pipeline, :class:`RecipeError` for values that it does not accept.

    Example:
        >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
        >>> kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
        >>> conditions_of(DDIMPipeline(UNet2DModel(layers_per_block=1, **kinds), DDIMScheduler()))  # unconditional
        Conditions(arguments={}, empty=None, count=1)
    """
    if prompts and embeddings is not None:
        raise RecipeError("--prompts and --embeddings exclude each other: give one of them")
    kinds = _kinds(pipe)
    text = next((kind for kind in TEXT_KINDS if kinds & set(kind.names)), None)
    with torch.no_grad():
        if text is not None:
            return _texts(text, pipe, list(prompts), size, embeddings)
        if hasattr(pipe, "conditions"):
            return pipe.conditions(list(prompts)) if embeddings is None else _without_text(pipe, embeddings)
        for names, make in _CLASS_KINDS:
            if kinds & set(names):
                return make(pipe, list(prompts)) if embeddings is None else _without_text(pipe, embeddings)
    raise ModelError(f"{type(pipe).__name__} has no prompts of a known kind: use one of {', '.join(_named())}")


def is_known(pipe: Any) -> bool:
    """Return whether :func:`conditions_of` knows a pipeline's kind.

    Example:
        >>> is_known(object())
        False
    """
    return hasattr(pipe, "conditions") or bool(_kinds(pipe) & set(_named()))


def _kinds(pipe: Any) -> set[str]:
    """Return a pipeline's class names, those of its bases included, so that diffusers need not be imported."""
    return {kind.__name__ for kind in type(pipe).__mro__}


def _named() -> list[str]:
    return [name for kind in TEXT_KINDS for name in kind.names] + [name for names, _ in _CLASS_KINDS for name in names]


def _texts(kind: TextKind, pipe: Any, prompts: list[str], size: int | None, embeddings: Path | None) -> Conditions:
    given, empty = _prompted(kind, pipe, prompts) if embeddings is None else _read(embeddings, kind, network_of(pipe))
    arguments = kind.arguments(pipe, given, size)
    return Conditions(arguments, None if empty is None else kind.arguments(pipe, empty, size), len(given.tokens))


def _prompted(kind: TextKind, pipe: Any, prompts: list[str]) -> tuple[Encoded, Encoded | None]:
    """Return the encoded prompts, or four default ones, and the empty one."""
    return kind.encoded(pipe, prompts or list(PROMPTS)), kind.empty(pipe, kind.encoded(pipe, [""]))


def _read(path: Path, kind: TextKind, network: nn.Module) -> tuple[Encoded, Encoded | None]:
    """Return the conditionings and the empty one of an embeddings file."""
    try:
        tensors = load_file(path)
        given = _encoded(tensors, "embeddings", "", kind, network)
        empty = _encoded(tensors, "empty", "empty_", kind, network) if "empty" in tensors else None
    except (OSError, SafetensorError, KeyError) as error:
        lacking = error.args[0] if isinstance(error, KeyError) else "embeddings"
        raise RecipeError(
            f"no embeddings in {str(path)!r}: give a safetensors file with `{lacking}`, and `empty` for guidance"
        ) from None
    if empty is not None and empty.tokens.shape[1:] != given.tokens.shape[1:]:
        raise RecipeError(f"`empty` and `embeddings` of {str(path)!r} differ in shape: give equally many tokens")
    return given, empty


def _encoded(tensors: dict[str, Tensor], name: str, prefix: str, kind: TextKind, network: nn.Module) -> Encoded:
    weight = next(network.parameters())
    tokens = tensors[name].to(weight.device, weight.dtype)
    wanted = _channels(network)
    if tokens.ndim != 3 or wanted not in (None, tokens.shape[-1]):
        raise RecipeError(f"`{name}` is {list(tokens.shape)}: this model takes [n, tokens, {wanted or 'channels'}]")
    pooled = tensors[f"{prefix}pooled"].to(tokens) if kind.pooled else None
    mask = tensors.get(f"{prefix}mask")
    return Encoded(tokens, pooled, None if mask is None else mask.to(tokens.device))


def _channels(network: Any) -> int | None:
    """Return the channels of the text tokens that a network takes; None if its config does not have them."""
    for name in ("caption_channels", "joint_attention_dim", "cross_attention_dim"):
        value = network.config.get(name)
        if value is not None:
            return int(value) if isinstance(value, int) else None
    return None


def _without_text(pipe: Any, embeddings: Path) -> Conditions:
    """Return embeddings as class conditionings of the demo's U-Net. Other pipelines without text take no embeddings."""
    if not hasattr(pipe, "class_table"):
        raise RecipeError(f"{type(pipe).__name__} takes no embeddings: leave --embeddings out")
    return _texts(PLAIN_TEXT, pipe, [], None, embeddings)


def _classes(pipe: Any, prompts: list[str]) -> Conditions:
    count, device = pipe.transformer.config.num_embeds_ada_norm, pipe.transformer.device
    labels = torch.tensor(classes_of(pipe, prompts), device=device)
    return Conditions({"class_labels": labels}, {"class_labels": torch.full((1,), count, device=device)}, len(labels))


def classes_of(pipe: Any, prompts: list[str]) -> list[int]:
    """Return class numbers for a class-conditional transformer's pipeline; all of them for no prompts.

    Args:
        pipe: with a transformer and the names of its classes.
        prompts: names or numbers.

    Raises :class:`RecipeError` for an unknown class.

    Example:
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(num_embeds_ada_norm=10)
        >>> classes_of(SimpleNamespace(transformer=SimpleNamespace(config=config), labels={"cat": 5}), ["cat", "2"])
        [5, 2]
    """
    return class_numbers(prompts, pipe.labels, min(pipe.transformer.config.num_embeds_ada_norm, _IMAGENET))


def class_numbers(prompts: list[str], names: dict[str, int], count: int) -> list[int]:
    """Return class numbers for class names or numbers; all of them for none.

    Args:
        prompts: names or numbers.
        names: class name -> number.
        count: number of classes.

    Raises :class:`RecipeError` for an unknown class.

    Example:
        >>> class_numbers(["cat", "2"], {"cat": 5}, count=10)
        [5, 2]
    """
    for prompt in prompts:
        if prompt not in names and not (prompt.isdecimal() and int(prompt) < count):
            raise RecipeError(f"no class {prompt!r}: give {'names or ' if names else ''}numbers from 0 to {count - 1}")
    return [names[p] if p in names else int(p) for p in prompts] or list(range(count))


def _unconditional(pipe: Any, prompts: list[str]) -> Conditions:
    classes = getattr(pipe.unet.config, "num_class_embeds", None)
    if classes:
        labels = torch.tensor(class_numbers(prompts, {}, classes), device=pipe.unet.device)
        return Conditions({"class_labels": labels}, None, len(labels))
    if prompts:
        raise RecipeError(f"{type(pipe).__name__} draws without prompts: leave --prompts out")
    return Conditions({})


_CLASS_KINDS: tuple[tuple[tuple[str, ...], Callable[[Any, list[str]], Conditions]], ...] = (
    (("DiTPipeline",), _classes),
    (("DDPMPipeline", "DDIMPipeline", "LDMPipeline"), _unconditional),
)
