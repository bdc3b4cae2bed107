"""Multiply-adds are counted from the shapes that pass through, whatever class or weight a layer has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from skipstone.core.measure.macs import CostProbe, module_macs

TOKENS, IN, OUT = 5, 8, 12
MACS = TOKENS * IN * OUT


class Packed(nn.Linear):
    """Two weights to a byte, as in quantised checkpoints."""

    def __init__(self) -> None:
        super().__init__(IN, OUT)
        self.whole = self.weight.detach().clone()
        self.weight = nn.Parameter(torch.zeros(OUT, IN // 2, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., IN] -> [..., OUT]."""
        return functional.linear(x, self.whole, self.bias)


class Foreign(nn.Module):
    """A layer of another class, which holds a packed matrix under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = [torch.randn(OUT, IN)]
        self.register_buffer("qweight", torch.zeros(IN // 8, OUT, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """[..., IN] -> [..., OUT]."""
        return functional.linear(x, self.whole[0])


class Around(nn.Module):
    """Calls the layer that it wraps, or uses its weight."""

    def __init__(self, calls: bool) -> None:
        super().__init__()
        self.inner, self.calls = nn.Linear(IN, OUT), calls

    def forward(self, x: Tensor) -> Tensor:
        """[..., IN] -> [..., OUT]."""
        return self.inner(x) if self.calls else functional.linear(x, self.inner.weight)


def with_patched_forward() -> nn.Linear:
    layer = nn.Linear(IN, OUT)
    layer.forward = lambda x: functional.linear(x, layer.weight)  # type: ignore[method-assign, assignment]
    return layer


LAYERS = [
    lambda: nn.Linear(IN, OUT),
    Packed,
    Foreign,
    lambda: Around(True),
    lambda: Around(False),
    with_patched_forward,
]


@pytest.mark.parametrize("layer", LAYERS, ids=["plain", "packed", "foreign", "calls", "uses", "patched"])
@torch.no_grad()
def test_a_linear_layer_of_any_class_counts_by_what_passes_through(layer: Any) -> None:
    block = nn.Sequential(nn.LayerNorm(IN), layer(), nn.GELU())
    with CostProbe(block) as probe:
        block(torch.randn(1, TOKENS, IN))
    assert probe.macs == MACS
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


@torch.no_grad()
def test_grouped_convolutions_count_by_their_kernel() -> None:
    layer = nn.Conv2d(8, 4, 3, padding=1, groups=2)
    expected = 4 * 6 * 6 * (8 // 2) * 9
    with CostProbe(layer) as probe:
        layer(torch.randn(1, 8, 6, 6))
    assert probe.macs == expected


def test_a_packed_feed_forward_counts_by_its_features() -> None:
    assert module_macs(nn.Sequential(Packed()), "ff", TOKENS, IN, None) == MACS
