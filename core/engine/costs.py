"""Multiply-adds of the modules that token maps touch, from their shapes (one sample; matmuls of attention included)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..tokens.grid import Partition


def module_macs(module: nn.Module, role: str, tokens: int, channels: int, context: int | None) -> int:
    """Multiply-adds of an attention or feed-forward on `tokens` tokens; `context`: tokens of a cross-attention's keys."""
    if role == "ff":
        return tokens * sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))
    inner = getattr(getattr(module, "to_q", None), "out_features", channels)
    if context is None:
        return 4 * tokens * channels * inner + 2 * tokens * tokens * inner
    width = getattr(getattr(module, "to_k", None), "in_features", channels)
    return 2 * tokens * channels * inner + 2 * context * width * inner + 2 * tokens * context * inner


def matching_macs(partition: Partition, metric: Tensor, matching: Literal["dense", "local"]) -> int:
    """Multiply-adds of the similarity between sources and destinations for metric [B, N, C]."""
    batch, _, channels = metric.shape
    if matching == "dense":
        return batch * channels * partition.src.shape[-1] * partition.dst.shape[-1]
    count, depth = partition.tiles.src.shape
    return batch * channels * count * depth * partition.tiles.dst.shape[1]


def recovery_macs(metric: Tensor, pruned: int) -> int:
    """Multiply-adds of comparing `pruned` tokens per sample with all that are kept, for metric [B, N, C]."""
    batch, tokens, channels = metric.shape
    return batch * channels * pruned * (tokens - pruned)
