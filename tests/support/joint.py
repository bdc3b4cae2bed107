"""A transformer of a few numbers whose attention runs on text and picture together, with rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, HEADS = 16, 2
Kernel = Callable[..., Tensor]


class Joint(nn.Module):
    """Latent [B, 4, H, W] and text [B, N, WIDTH] -> [B, 4, H, W].

    Args:
        order: "text picture", "picture text", "picture", or "by hand": text first, joined without `torch.cat`.
        kernel: called in the place of `scaled_dot_product_attention`.
        options: further arguments of the kernel.
        extra: tokens that are joined to the picture's before text is (padding, reference pictures); "own" for the picture's once
            more.
        kv_heads: heads of keys and values.
    """

    def __init__(
        self, order: str = "text picture", kernel: Kernel | None = None, extra: int | str = 0, kv_heads: int = 2
    ) -> None:
        """Random weights."""
        super().__init__()
        self.order, self.extra = order, extra
        self.embed, self.head = nn.Linear(16, WIDTH), nn.Linear(WIDTH, 16)
        self.layers = nn.ModuleList(Layer(kernel, kv_heads) for _ in range(4))
        self.options: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, timestep: Any, encoder_hidden_states: Tensor) -> Tensor:
        """One call."""
        picture = self.embed(F.pixel_unshuffle(hidden_states, 2).flatten(2).transpose(1, 2))
        tokens, text = picture.shape[1], encoder_hidden_states
        if self.extra == "own":
            picture = torch.cat([picture, picture], 1)
        elif isinstance(self.extra, int) and self.extra:
            picture = torch.cat([picture, text[:, :1].expand(-1, self.extra, -1)], 1)
        start, x = self._joined(text, picture)
        for layer in self.layers:
            x = layer(x, self.options)
        x = self.head(x[:, start : start + tokens]).transpose(1, 2)
        return F.pixel_shuffle(x.unflatten(2, tuple(side // 2 for side in hidden_states.shape[-2:])), 2)

    def _joined(self, text: Tensor, picture: Tensor) -> tuple[int, Tensor]:
        if self.order == "by hand":
            x = picture.new_zeros(len(text), text.shape[1] + picture.shape[1], WIDTH)
            for row in range(len(text)):
                x[row, : text.shape[1]], x[row, text.shape[1] :] = text[row], picture[row]
            return text.shape[1], x
        parts = {"text": text, "picture": picture}
        start = text.shape[1] if self.order.startswith("text") else 0
        return start, torch.cat([parts[name] for name in self.order.split()], 1)


class Layer(nn.Module):
    """x + attention(x), with positions."""

    def __init__(self, kernel: Kernel | None, kv_heads: int) -> None:
        """Random weights."""
        super().__init__()
        self.attn = Attention(kernel, kv_heads)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, options: dict[str, Any]) -> Tensor:
        """One block."""
        return x + self.attn(self.norm(x), options)


class Attention(nn.Module):
    """Self-attention with rotary positions."""

    def __init__(self, kernel: Kernel | None, kv_heads: int) -> None:
        """Random weights."""
        super().__init__()
        size = WIDTH // HEADS
        self.kernel, self.kv_heads = kernel, kv_heads
        self.to_q, self.to_kv, self.out = (nn.Linear(WIDTH, n) for n in (WIDTH, 2 * kv_heads * size, WIDTH))

    def forward(self, x: Tensor, options: dict[str, Any]) -> Tensor:
        """x [B, N, WIDTH]."""
        q = self.to_q(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
        k, v = self.to_kv(x).unflatten(2, (2 * self.kv_heads, -1)).transpose(1, 2).chunk(2, 1)
        kernel = self.kernel or F.scaled_dot_product_attention
        return self.out(kernel(turned(q), turned(k), v, **options).transpose(1, 2).flatten(2))


def turned(x: Tensor) -> Tensor:
    """x [B, heads, N, C] with rotary positions."""
    angle = torch.arange(x.shape[2]).unsqueeze(1) * 0.1 ** torch.arange(x.shape[3] // 2)
    a, b = x.chunk(2, 3)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], 3)


def by_hand(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """A kernel that is not PyTorch's."""
    return (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3) @ v
