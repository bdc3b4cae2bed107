"""A double of the DiT paper's own code: same module tree, same ways of being called."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention with one fused projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]."""
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(x).chunk(3, dim=-1))
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


Attention.forward.__module__ = "timm.layers.attention"  # where the paper's code has it from


class DiTBlock(nn.Module):
    """Adaptive layer norm, attention and MLP, each with a gate."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens [B, N, C], condition [B, C]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class PaperDiT(nn.Module):
    """`blocks` of :class:`DiTBlock`, called as `model(x, t, y)`, or through `forward_with_cfg`."""

    def __init__(self, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(4, width, 2, stride=2)
        self.time = nn.Linear(1, width)
        self.label = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(DiTBlock(width, 2) for _ in range(depth))
        self.head = nn.Linear(width, 2 * 2 * 8)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Latent [B, 4, H, W] -> [B, 8, H, W]."""
        h, w = x.shape[2] // 2, x.shape[3] // 2
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        cond = self.time(t[:, None] / 1000) + self.label(y)
        for block in self.blocks:
            tokens = block(tokens, cond)
        return nn.functional.pixel_shuffle(self.head(tokens).transpose(1, 2).unflatten(2, (h, w)), 2)

    def forward_with_cfg(self, x: Tensor, t: Tensor, y: Tensor, scale: float) -> Tensor:
        """Both halves of the batch see the first half's latent; calls `forward` without `__call__`, as the paper's code."""
        half = x[: len(x) // 2]
        cond, uncond = self.forward(torch.cat([half, half]), t, y).chunk(2)
        guided = uncond + scale * (cond - uncond)
        return torch.cat([guided, guided])
