"""Which destination each source token is most similar to (CA-ToMe section III-A).

The metric is the transformer block's raw input, before its norm, compared by cosine. Dense matching compares all
sources with all destinations, N^2 work; local matching only those of one tile, linear in N.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .grid import Partition

_CHUNK_ELEMENTS = 1 << 24
"""Most elements of a similarity matrix held at a time."""


def best_pairs(metric: Tensor, partition: Partition, matching: Literal["dense", "local"]) -> tuple[Tensor, Tensor]:
    """metric [B, N, C] -> (score [B, n_src], position in `partition.dst` [B, n_src]) of each source's best destination.

    A zero token has similarity 0 to everything. Scores are fp32 on the CPU and fp16 or fp32 elsewhere.
    """
    unit = normalised(metric)
    if matching == "local":
        return _local(unit, partition)
    return most_similar(taken(unit, partition.src), taken(unit, partition.dst))


def normalised(metric: Tensor) -> Tensor:
    """metric [B, N, C] with rows of length one. Norms are fp32; half-precision input is compared in fp16 off the CPU,
    where unit rows cannot overflow and fp16 is finer than bf16."""
    unit = F.normalize(metric.float(), dim=-1, eps=1e-6)
    half = metric.dtype in (torch.float16, torch.bfloat16) and metric.device.type != "cpu"
    return unit.half() if half else unit


def most_similar(src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows src [B, n, C], dst [B, m, C] -> (score [B, n], index in dst [B, n]) of each one's most similar row.

    Works in chunks, so that memory grows with n + m alone.
    """
    rows = max(1, _CHUNK_ELEMENTS // (src.shape[0] * dst.shape[1]))
    across = dst.transpose(1, 2)
    parts = [(chunk @ across).max(dim=-1) for chunk in src.split(rows, dim=1)]
    return torch.cat([p.values for p in parts], 1), torch.cat([p.indices for p in parts], 1)


def taken(x: Tensor, at: Tensor) -> Tensor:
    """x [B, N, C] at positions [n], or [B, n] where each sample has its own -> [B, n, C]."""
    return x.index_select(1, at) if at.ndim == 1 else x.gather(1, at.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _local(unit: Tensor, partition: Partition) -> tuple[Tensor, Tensor]:
    tiles, (batch, _, channels) = partition.tiles, unit.shape
    count, depth = tiles.src.shape
    tiled_src = taken(unit, partition.src[..., tiles.src.flatten()]).view(batch * count, depth, channels)
    tiled_dst = taken(unit, partition.dst[..., tiles.dst.flatten()]).view(batch * count, -1, channels)
    similarity = (tiled_src @ tiled_dst.transpose(1, 2)).view(batch, count, depth, -1)
    if tiles.dst_bias is not None:
        similarity = similarity + tiles.dst_bias.to(similarity.dtype)
    score, inside = similarity.max(dim=-1)
    index = tiles.dst[None, :, None].expand(batch, count, depth, -1).gather(3, inside[..., None])
    return tuple(v.reshape(batch, -1).index_select(1, tiles.src_slot) for v in (score, index))  # type: ignore[return-value]
