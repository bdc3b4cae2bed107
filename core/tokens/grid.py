"""The token grid of a layer, and its partition into destinations (one per cell) and sources (all others).

CA-ToMe section III-A: cells of `stride` tokens; the destination is the cell's top-left token, or one drawn at random.
DaTo calls it the base token and chooses it per sample. Rows and columns that fill no whole cell hold sources only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt

import torch
from torch import Tensor

from ..errors import Decline

TILE_CELLS = 8
"""Side of the tiles of local matching, in cells; 8 costs 7 times less than dense matching at 64 x 64 tokens."""


@dataclass(frozen=True)
class Grid:
    """Height and width of a layer's tokens, and its downsample factor against the latent."""

    h: int
    w: int
    downsample: int

    @property
    def tokens(self) -> int:
        """Number of tokens, h * w."""
        return self.h * self.w


def grid_of(latent: tuple[int, ...], tokens: int) -> Grid:
    """The grid of a layer with `tokens` tokens in a network whose latent is `latent` = (H, W).

    Raises :class:`Decline` when the tokens are no downsampled latent (extra tokens, videos, non-square factors).
    """
    height, width = latent
    if tokens < 1 or tokens > height * width:
        raise Decline(f"{tokens} tokens do not come from a {height}x{width} latent")
    ds = ceil(sqrt(height * width // tokens))
    for factor in (ds, ds + 1):
        if ceil(height / factor) * ceil(width / factor) == tokens:
            return Grid(ceil(height / factor), ceil(width / factor), factor)
    raise Decline(f"{tokens} tokens are no grid of a {height}x{width} latent")


@dataclass(frozen=True)
class Tiles:
    """Sources and destinations of a partition, sorted into tiles for local matching.

    src [tiles, S], dst [tiles, D]: positions in the partition's own order, padded with 0.
    dst_bias [tiles, 1, D]: 0, and -inf at padding; None when nothing is padded.
    src_slot [n_src]: where each source stands in the flattened `src`.
    """

    src: Tensor
    dst: Tensor
    dst_bias: Tensor | None
    src_slot: Tensor


@dataclass(frozen=True)
class Partition:
    """src [n_src] and dst [n_dst]: token positions of a grid, disjoint, together all of them, each in ascending order.

    Where each sample has its own, they are [B, n_src] and [B, n_dst], cell by cell.
    """

    grid: Grid
    src: Tensor
    dst: Tensor
    tiles: Tiles


@lru_cache(maxsize=64)
def top_left(grid: Grid, stride: tuple[int, int], device: torch.device) -> Partition:
    """The partition whose destinations are the top-left tokens of the cells."""
    return _partition(grid, stride, torch.zeros(_cells(grid, stride), dtype=torch.long), device)


def drawn(grid: Grid, stride: tuple[int, int], generator: torch.Generator, device: torch.device) -> Partition:
    """A partition whose destinations are drawn at random in each cell by `generator` (a CPU generator of our own)."""
    cells = _cells(grid, stride)
    offsets = torch.randint(stride[0] * stride[1], cells, generator=generator)
    return _partition(grid, stride, offsets, device)


def chosen(grid: Grid, stride: tuple[int, int], offsets: Tensor) -> Partition:
    """Each sample's own partition. offsets [B, cells]: the destination's place inside each cell, row by row."""
    cells = cells_of(grid, stride, offsets.device)
    members = cells.members.expand(len(offsets), -1, -1)
    at = offsets.unsqueeze(2)
    others = torch.arange(members.shape[2] - 1, device=offsets.device)
    src = members.gather(2, others + (others >= at).long()).flatten(1)
    rest = cells.rest.expand(len(offsets), -1)
    return Partition(grid, torch.cat([src, rest], 1), members.gather(2, at).squeeze(2), cells.tiles)


@dataclass(frozen=True)
class Cells:
    """members [cells, sy * sx]: tokens of each whole cell, row by row. rest: tokens outside them. tiles: of :func:`chosen`."""

    members: Tensor
    rest: Tensor
    tiles: Tiles


@lru_cache(maxsize=64)
def cells_of(grid: Grid, stride: tuple[int, int], device: torch.device) -> Cells:
    """The cells of a grid. Raises :class:`Decline` when it holds none."""
    (sy, sx), (rows, columns) = stride, _cells(grid, stride)
    position = torch.arange(grid.tokens).view(grid.h, grid.w)
    whole = position[: rows * sy, : columns * sx].reshape(rows, sy, columns, sx)
    members = whole.transpose(1, 2).reshape(rows * columns, sy * sx)
    outside = torch.ones(grid.tokens, dtype=torch.bool)
    outside[members.flatten()] = False
    rest, tile = outside.nonzero().flatten(), _tile_of_token(grid, stride, rows, columns)
    of_cell = tile[members[:, 0]]
    tiles = _tiles(torch.cat([of_cell.repeat_interleave(sy * sx - 1), tile[rest]]), of_cell, device)
    return Cells(members.to(device), rest.to(device), tiles)


def _cells(grid: Grid, stride: tuple[int, int]) -> tuple[int, int]:
    rows, columns = grid.h // stride[0], grid.w // stride[1]
    if rows < 1 or columns < 1:
        raise Decline(f"a {grid.h}x{grid.w} grid holds no cell of {stride[0]}x{stride[1]}")
    return rows, columns


def _partition(grid: Grid, stride: tuple[int, int], offsets: Tensor, device: torch.device) -> Partition:
    """offsets [rows, columns]: index of the destination inside each cell, row by row."""
    (sy, sx), (rows, columns) = stride, offsets.shape
    row = torch.arange(rows)[:, None] * sy + offsets // sx
    column = torch.arange(columns)[None, :] * sx + offsets % sx
    is_dst = torch.zeros(grid.tokens, dtype=torch.bool)
    is_dst[(row * grid.w + column).flatten()] = True
    dst, src = is_dst.nonzero().flatten(), (~is_dst).nonzero().flatten()
    tile = _tile_of_token(grid, stride, rows, columns)
    tiles = _tiles(tile[src], tile[dst], device)
    return Partition(grid, src.to(device), dst.to(device), tiles)


def _tile_of_token(grid: Grid, stride: tuple[int, int], rows: int, columns: int) -> Tensor:
    """Tile number of each token [h*w]; tokens outside whole cells belong to the nearest cell."""

    def along(length: int, step: int, cells: int) -> Tensor:
        cell = (torch.arange(length) // step).clamp(max=cells - 1)
        return cell * ceil(cells / TILE_CELLS) // cells

    across = ceil(columns / TILE_CELLS)
    return (along(grid.h, stride[0], rows)[:, None] * across + along(grid.w, stride[1], columns)).flatten()


def _tiles(src_tile: Tensor, dst_tile: Tensor, device: torch.device) -> Tiles:
    count = int(dst_tile.max()) + 1
    src, src_slot, _ = _table(src_tile, count)
    dst, _, filled = _table(dst_tile, count)
    bias = None
    if not bool(filled.all()):
        bias = torch.zeros(filled.shape).masked_fill_(~filled, float("-inf"))[:, None].to(device)
    return Tiles(src.to(device), dst.to(device), bias, src_slot.to(device))


def _table(group: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort items by group: table [count, most] of item numbers (0 where unused), flat slot of each item, used [count, most]."""
    sizes = torch.bincount(group, minlength=count)
    order = torch.argsort(group, stable=True)
    starts = sizes.cumsum(0) - sizes
    most = int(sizes.max())
    slot = torch.empty_like(group)
    slot[order] = group[order] * most + torch.arange(len(group)) - starts[group[order]]
    table = torch.zeros(count * most, dtype=torch.long)
    used = torch.zeros(count * most, dtype=torch.bool)
    table[slot], used[slot] = torch.arange(len(group)), True
    return table.view(count, most), slot, used.view(count, most)
