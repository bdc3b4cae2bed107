"""The most similar destination of each source token (CA-ToMe, arXiv 2501.00946, section III-A).

The metric is the transformer block's raw input, before its norm, compared by cosine. Dense matching compares all
sources with all destinations, which is N^2 work. Local matching compares inside tiles, which is linear in N.
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
    """The most similar destination of each source.

    Args:
        metric: the block's raw input [B, N, C].
        partition: sources and destinations of its N tokens.
        matching: "dense", or "local" for the destinations of the source's own tile alone.

    Returns the cosine similarities [B, n_src], fp32 on the CPU and fp16 or fp32 elsewhere, and indices into `partition.dst`
    [B, n_src]. A zero token has similarity 0 to everything.

    Example:
        >>> from .grid import Grid, top_left
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [3.0, 0.0]]])
        >>> score, best = best_pairs(tokens, top_left(Grid(1, 4, 1), (1, 2), torch.device("cpu")), "dense")
        >>> score.tolist(), best.tolist()  # destinations are the tokens 0 and 2, sources 1 and 3
        ([[1.0, 1.0]], [[1, 0]])
    """
    unit = normalised(metric)
    if matching == "local":
        return _local(unit, partition)
    src, dst = tokens_at(unit, partition.order).tensor_split((partition.sources,), dim=1)
    return most_similar(src, dst)


def normalised(metric: Tensor) -> Tensor:
    """The metric [B, N, C] with rows of length one. A zero row stays zero.

    Norms are fp32. Off the CPU, half-precision input becomes fp16: unit rows cannot overflow, and fp16 is finer than bf16.

    Example:
        >>> normalised(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])).mul(5).tolist()
        [[[3.0, 4.0], [0.0, 0.0]]]
    """
    unit = F.normalize(metric.float(), dim=-1, eps=1e-6)
    half = metric.dtype in (torch.float16, torch.bfloat16) and metric.device.type != "cpu"
    return unit.half() if half else unit


def most_similar(src: Tensor, dst: Tensor) -> tuple[Tensor, Tensor]:
    """The row of `dst` that is most similar to each row of `src`, found in chunks, so that memory grows with n + m alone.

    Args:
        src: unit rows [B, n, C].
        dst: unit rows [B, m, C].

    Returns similarities [B, n] and indices into `dst` [B, n].

    Example:
        >>> score, index = most_similar(torch.tensor([[[0.0, 1.0]]]), torch.eye(2)[None])
        >>> score.tolist(), index.tolist()
        ([[1.0]], [[1]])
    """
    rows = max(1, _CHUNK_ELEMENTS // (src.shape[0] * dst.shape[1]))
    across = dst.transpose(1, 2)
    parts = [torch.bmm(chunk, across).max(dim=-1) for chunk in src.split(rows, dim=1)]
    values, indices = zip(*parts, strict=True)
    return (values[0], indices[0]) if len(parts) == 1 else (torch.cat(values, 1), torch.cat(indices, 1))


def tokens_at(x: Tensor, at: Tensor) -> Tensor:
    """The tokens at some positions [B, n, C].

    Args:
        x: tokens [B, N, C].
        at: positions [n], or [B, n] where each sample has its own.

    Example:
        >>> tokens_at(torch.arange(4.0).view(1, 4, 1), torch.tensor([3, 0])).tolist()
        [[[3.0], [0.0]]]
    """
    return x.index_select(1, at) if at.ndim == 1 else x.gather(1, at.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _local(unit: Tensor, partition: Partition) -> tuple[Tensor, Tensor]:
    # Tiles join the batch, so that one product compares each tile's sources with its own destinations.
    tiles, (batch, _, channels) = partition.tiles, unit.shape
    count, depth = tiles.src.shape
    tiled = tokens_at(unit, partition.tiled).view(batch * count, -1, channels)
    similarity = torch.bmm(tiled[:, :depth], tiled[:, depth:].transpose(1, 2)).view(batch, count, depth, -1)
    if tiles.dst_bias is not None:
        similarity = similarity + tiles.dst_bias.to(similarity.dtype)
    score, inside = similarity.max(dim=-1)
    # From places inside a tile to indices into partition.dst, then from the tiles' order back to the sources' order.
    index = tiles.dst[None, :, None].expand(batch, count, depth, -1).gather(3, inside[..., None])
    return tuple(v.reshape(batch, -1).index_select(1, tiles.src_slot) for v in (score, index))  # type: ignore[return-value]
