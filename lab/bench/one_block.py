"""The module that is timed: one real SD1.5 transformer block, and inputs of which a given share merges.

The block is `ldm`'s own `BasicTransformerBlock` with random weights; its attention runs through torch's fused kernel, as
in every present host (the original builds the N x N matrix: 17 GB at 1024 px).
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.errors import ModelError
from ...core.tokens.grid import Grid, top_left
from ...core.tokens.matching import best_pairs

CHANNELS, HEADS, CONTEXT_DIM, CONTEXT_TOKENS = 320, 8, 768, 77
LATENT_FACTOR = 8
"""Pixels per latent position; the block sits at the latent's own resolution."""


class UNetModel(nn.Module):
    """A network of transformer blocks only, with the class name of ldm's U-Net, by which it is recognised.

    Args:
        blocks: run one after the other.

    Example:
        >>> UNetModel([])(torch.zeros(1, 4, 8, 8)).shape
        torch.Size([1, 64, 4])
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        """Take over the blocks."""
        super().__init__()
        self.input_blocks = nn.ModuleList(blocks)
        self.output_blocks = nn.ModuleList()

    def forward(self, x: Tensor, timesteps: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], with channels last in memory -> tokens [B, H*W, C].

        Args:
            x: latents.
            timesteps: not used.
            context: for cross-attention, [B, tokens, channels].
        """
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        for block in self.input_blocks:
            tokens = block(tokens, context=context)
        return tokens


@dataclass(frozen=True)
class Inputs:
    """Inputs of one size.

    Args:
        x: [B, C, H, W], with channels last in memory.
        context: [B, 77, 768].
        timesteps: [B].

    Example:
        >>> inputs = make_inputs(64)
        >>> inputs.tokens.shape, inputs.count
        (torch.Size([2, 64, 320]), 64)
    """

    x: Tensor
    context: Tensor
    timesteps: Tensor

    @property
    def tokens(self) -> Tensor:
        """The block's hidden state [B, N, C], a view of x."""
        return self.x.permute(0, 2, 3, 1).flatten(1, 2)

    @property
    def count(self) -> int:
        """N, tokens per sample."""
        return self.x.shape[2] * self.x.shape[3]


def new_block(channels: int = CHANNELS, heads: int = HEADS, context: int = CONTEXT_DIM, seed: int = 0) -> nn.Module:
    """ldm's transformer block with random weights.

    Args:
        channels: of the tokens.
        heads: of the attention.
        context: channels of the context.
        seed: of the weights.

    Raises :class:`ModelError` if `ldm` is not installed.

    Example:
        >>> block = new_block(channels=16, heads=2, context=8)
        >>> block(torch.zeros(1, 4, 16), context=torch.zeros(1, 3, 8)).shape
        torch.Size([1, 4, 16])
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints on import
            from ldm.modules.attention import BasicTransformerBlock
    except ImportError as error:
        raise ModelError(
            f"the bench needs ldm's own block ({error}): pip install --no-deps stable-diffusion-sdkit==2.1.5"
        ) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = BasicTransformerBlock(channels, heads, channels // heads, context_dim=context, checkpoint=False)
    for attention in (block.attn1, block.attn2):
        attention.forward = MethodType(_fused_attention, attention)
    return block.eval().requires_grad_(False)


def twin(model: nn.Module) -> Any:
    """A copy with its own modules and the same weights, so that patches on one do not reach the other.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> twin(layer) is layer, twin(layer).weight is layer.weight
        (False, True)
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def make_inputs(size: int, batch: int = 2, noise: float = 0.5, seed: int = 0, like: Tensor | None = None) -> Inputs:
    """A smooth field plus noise, from its own generator.

    Args:
        size: side of the pictures in pixels.
        batch: B.
        noise: its standard deviation; the field's is about 1.
        seed: of the draw.
        like: a tensor whose device and precision they have; fp32 on the CPU without it.

    Example:
        >>> make_inputs(128).x.shape
        torch.Size([2, 320, 16, 16])
    """
    side, generator = size // LATENT_FACTOR, torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, CHANNELS, 8, 8, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic")
    x = smooth + noise * torch.randn(batch, CHANNELS, side, side, generator=generator)
    context = torch.randn(batch, CONTEXT_TOKENS, CONTEXT_DIM, generator=generator)
    like = x if like is None else like
    latents = x.to(like).contiguous(memory_format=torch.channels_last)
    return Inputs(latents, context.to(like), torch.full((batch,), 500.0, device=like.device))


def threshold_for(inputs: Inputs, merged: int, matching: Literal["dense", "local"]) -> float:
    """The threshold at which the sample of the batch that merges most easily has exactly `merged` pairs.

    It lies midway between the batch's best score of that rank and of the next, so that rounding cannot change the count; -1
    if all sources merge.

    Args:
        inputs: whose tokens are matched.
        merged: wanted number of pairs.
        matching: "dense" or "local".

    Example:
        >>> threshold_for(make_inputs(64), merged=48, matching="dense")
        -1.0
    """
    side = inputs.x.shape[2]
    partition = top_left(Grid(side, inputs.x.shape[3], 1), (2, 2), inputs.x.device)
    score, _ = best_pairs(inputs.tokens, partition, matching)
    if merged >= score.shape[1]:
        return -1.0
    ranked = score.topk(merged + 1, dim=1).values
    return float(ranked[:, merged - 1].max() + ranked[:, merged].max()) / 2


def _fused_attention(self: Any, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """ldm's `CrossAttention.forward` without its N x N matrix."""
    source = x if context is None else context
    q, k, v = (
        layer(value).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        for layer, value in ((self.to_q, x), (self.to_k, source), (self.to_v, source))
    )
    return self.to_out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


def hollow(block: nn.Module) -> Any:
    """The block with attention and feed-forward that return their input: what is left of the time is merging.

    Example:
        >>> block = hollow(new_block(channels=16, heads=2, context=8))
        >>> block.attn1(torch.ones(1, 2)).tolist()
        [[1.0, 1.0]]
    """
    copied = twin(block)
    for module in (copied.attn1, copied.attn2, copied.ff):
        module.forward = _first_argument
    return copied


def _first_argument(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x
