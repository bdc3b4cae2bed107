"""Latents as rows of tokens, as Flux takes them: each token holds 2 x 2 latent pixels, and has a row and a column."""

from __future__ import annotations

from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .prompts import NetworkArguments

PACKING = 2
"""Side of a token in latent pixels."""


def takes_tokens(network: nn.Module) -> bool:
    """Whether a network takes packed latents with their positions.

    Example:
        >>> takes_tokens(nn.Identity())
        False
    """
    return "img_ids" in signature(network.forward).parameters


def packed(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] -> tokens [B, h/2 w/2, 4C].

    Example:
        >>> packed(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 16, 64])
    """
    return F.pixel_unshuffle(latents, PACKING).flatten(2).transpose(1, 2)


def unpacked(tokens: Tensor, size: tuple[int, ...]) -> Tensor:
    """Tokens [B, h/2 w/2, 4C] -> latents [B, C, h, w].

    Args:
        tokens: of :func:`packed`.
        size: (h, w).

    Example:
        >>> latents = torch.rand(1, 16, 8, 4)
        >>> torch.equal(unpacked(packed(latents), (8, 4)), latents)
        True
    """
    rows, columns = (side // PACKING for side in size)
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), PACKING)


def flux_positions(latents: Tensor, text: Tensor) -> NetworkArguments:
    """The positions of Flux's rotary embeddings: 0, row and column of picture tokens, zeros for text.

    Args:
        latents: [B, C, h, w].
        text: tokens [B, N, channels].

    Example:
        >>> found = flux_positions(torch.zeros(1, 16, 8, 8), torch.zeros(1, 5, 64))
        >>> found["img_ids"][-1].tolist(), found["txt_ids"].shape
        ([0.0, 3.0, 3.0], torch.Size([5, 3]))
    """
    rows, columns = (torch.arange(side // PACKING, device=latents.device) for side in latents.shape[-2:])
    places = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns)
    return {"img_ids": places.to(latents), "txt_ids": latents.new_zeros(text.shape[1], 3)}
