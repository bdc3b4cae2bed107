"""Multiply-adds of any code, counted by torch's own counter, CPU flash attention included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def count_macs(work: Callable[[], Any]) -> int:
    """Run `work` once without gradients and count its multiply-adds (matrix products, convolutions, attention)."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={flash: _attention}) as counter:
        work()
    return counter.get_total_flops() // 2


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)
