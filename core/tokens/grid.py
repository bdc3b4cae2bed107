"""The token grid of a layer, and its partition into destinations (one per cell) and sources (all others).

CA-ToMe section III-A: cells of `stride` tokens; the destination is the cell's top-left token, or one drawn at random.
DaTo calls it the base token and chooses it per sample. Tokens outside whole cells are sources.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import ceil, sqrt

import torch
from torch import Tensor

from ..errors import Decline
from .tiles import Tiles, tile_of_token, tiles_of

GRIDS_KEPT = 16
"""Grids whose indices stay on their device between runs: the layers of a few picture sizes."""


@dataclass(frozen=True)
class Grid:
    """The tokens of a layer as a picture.

    Args:
        h, w: height and width in tokens.
        downsample: latent positions along one side of a token; 1 at the latent's own resolution.

    Example:
        >>> Grid(4, 6, downsample=2).tokens
        24
    """

    h: int
    w: int
    downsample: int

    @property
    def tokens(self) -> int:
        """Number of tokens, h * w."""
        return self.h * self.w


def grid_of(latent: tuple[int, ...], tokens: int) -> Grid:
    """The grid of a layer. Hosts pass only the number of tokens, so that the factor is found from it.

    Args:
        latent: height and width (H, W) of the network's input.
        tokens: number of tokens N of the layer.

    Raises :class:`Decline` when N is not the size of a downsampled latent (extra tokens, videos, non-square factors).

    Example:
        >>> grid_of((64, 96), 1536)
        Grid(h=32, w=48, downsample=2)
    """
    height, width = latent
    if tokens < 1 or tokens > height * width:
        raise Decline(f"{tokens} tokens do not come from a {height}x{width} latent")
    # Rounding up at odd sizes leaves more tokens than the exact quotient, so the estimate can be one too small.
    ds = ceil(sqrt(height * width // tokens))
    for factor in (ds, ds + 1):
        if ceil(height / factor) * ceil(width / factor) == tokens:
            return Grid(ceil(height / factor), ceil(width / factor), factor)
    raise Decline(f"{tokens} tokens are not a grid of a {height}x{width} latent")


@dataclass(frozen=True)
class Partition:
    """The tokens of a grid as sources and destinations: every token is one or the other.

    Args:
        grid: the grid.
        order: positions of all tokens, sources first [N]; [B, N] where each sample has its own.
        sources: number of sources, n_src.
        tiles: both, sorted for local matching.

    Example:
        >>> partition = top_left(Grid(2, 4, 1), (2, 2), torch.device("cpu"))
        >>> partition.dst.tolist(), partition.src.tolist()
        ([0, 2], [1, 3, 4, 5, 6, 7])
    """

    grid: Grid
    order: Tensor
    sources: int
    tiles: Tiles

    @property
    def src(self) -> Tensor:
        """Positions of the sources, [n_src] or [B, n_src]."""
        return self.order[..., : self.sources]

    @property
    def dst(self) -> Tensor:
        """Positions of the destinations, [n_dst] or [B, n_dst]."""
        return self.order[..., self.sources :]

    @cached_property
    def tiled(self) -> Tensor:
        """Positions of the tokens of all tiles, [tiles * (S + D)] or [B, tiles * (S + D)]."""
        return self.order.index_select(-1, self.tiles.order)


@lru_cache(maxsize=GRIDS_KEPT)
def positions(count: int, device: torch.device) -> Tensor:
    """The numbers 0, 1, ... below a count. They are kept: do not change them.

    Args:
        count: how many.
        device: where they are kept.

    Example:
        >>> positions(3, torch.device("cpu")).tolist()
        [0, 1, 2]
    """
    # Made on the CPU, and there when this returns: other streams of the device may use it next.
    return torch.arange(count).to(device)


@lru_cache(maxsize=GRIDS_KEPT)
def top_left(grid: Grid, stride: tuple[int, int], device: torch.device) -> Partition:
    """The partition whose destinations are the top-left tokens of the cells.

    Args:
        grid: the layer's grid.
        stride: height and width of a cell in tokens.
        device: where the indices are kept.

    Raises :class:`Decline` when the grid has no whole cell.

    Example:
        >>> top_left(Grid(4, 4, 1), (2, 2), torch.device("cpu")).dst.tolist()
        [0, 2, 8, 10]
    """
    (sy, sx), (rows, columns) = stride, _cells(grid, stride)
    is_dst = torch.zeros(grid.h, grid.w, dtype=torch.bool)
    is_dst[: rows * sy : sy, : columns * sx : sx] = True
    tile, order = tile_of_token((grid.h, grid.w), stride, (rows, columns)), is_dst.flatten().argsort(stable=True)
    sources = grid.tokens - rows * columns
    return Partition(grid, order.to(device), sources, tiles_of(tile[order[:sources]], tile[order[sources:]], device))


def drawn(grid: Grid, stride: tuple[int, int], generator: torch.Generator, device: torch.device) -> Partition:
    """A partition whose destinations are drawn at random, one in each cell (the released code of CA-ToMe).

    Args:
        grid: the layer's grid.
        stride: height and width of a cell in tokens.
        generator: a CPU generator that nothing else uses; the sampler's noise must not depend on it.
        device: where the indices are kept.

    Raises :class:`Decline` when the grid has no whole cell.

    Example:
        >>> drawn(Grid(4, 4, 1), (2, 2), torch.Generator().manual_seed(0), torch.device("cpu")).dst.shape
        torch.Size([4])
    """
    rows, columns = _cells(grid, stride)
    offsets = torch.randint(stride[0] * stride[1], (1, rows * columns), generator=generator)
    one = chosen(grid, stride, offsets.to(device, non_blocking=device.type == "cuda"))
    return replace(one, order=one.order[0])


def chosen(grid: Grid, stride: tuple[int, int], offsets: Tensor) -> Partition:
    """A partition for each sample.

    Args:
        grid: the layer's grid.
        stride: height and width of a cell in tokens.
        offsets: index of the destination inside each cell, row by row [B, cells].

    Raises :class:`Decline` when the grid has no whole cell.

    Example:
        >>> chosen(Grid(2, 4, 1), (2, 2), torch.tensor([[0, 3]])).dst.tolist()
        [[0, 7]]
    """
    cells = cells_of(grid, stride, offsets.device)
    members = cells.members.expand(len(offsets), -1, -1)
    at = offsets.unsqueeze(2)
    # Column k of the others is member k of the cell, or k + 1 from the destination on: the destination is left out.
    others = positions(members.shape[2] - 1, offsets.device)
    src = members.gather(2, others + (others >= at)).flatten(1)
    rest, dst = cells.rest.expand(len(offsets), -1), members.gather(2, at).squeeze(2)
    return Partition(grid, torch.cat([src, rest, dst], 1), grid.tokens - dst.shape[1], cells.tiles)


@dataclass(frozen=True)
class Cells:
    """The whole cells of a grid.

    Args:
        members: tokens of each cell, row by row [cells, sy * sx].
        rest: tokens outside all whole cells.
        tiles: for the partitions that :func:`chosen` makes.

    Example:
        >>> cells_of(Grid(2, 5, 1), (2, 2), torch.device("cpu")).rest.tolist()
        [4, 9]
    """

    members: Tensor
    rest: Tensor
    tiles: Tiles


@lru_cache(maxsize=GRIDS_KEPT)
def cells_of(grid: Grid, stride: tuple[int, int], device: torch.device) -> Cells:
    """The cells of a grid.

    Args:
        grid: the layer's grid.
        stride: height sy and width sx of a cell in tokens.
        device: where the indices are kept.

    Raises :class:`Decline` when the grid has no whole cell.

    Example:
        >>> cells_of(Grid(2, 4, 1), (2, 2), torch.device("cpu")).members.tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    (sy, sx), (rows, columns) = stride, _cells(grid, stride)
    position = torch.arange(grid.tokens).view(grid.h, grid.w)
    whole = position[: rows * sy, : columns * sx].reshape(rows, sy, columns, sx)
    members = whole.transpose(1, 2).reshape(rows * columns, sy * sx)
    outside = torch.ones(grid.tokens, dtype=torch.bool)
    outside[members.flatten()] = False
    rest, tile = outside.nonzero().flatten(), tile_of_token((grid.h, grid.w), stride, (rows, columns))
    of_cell = tile[members[:, 0]]
    tiles = tiles_of(torch.cat([of_cell.repeat_interleave(sy * sx - 1), tile[rest]]), of_cell, device)
    return Cells(members.to(device), rest.to(device), tiles)


def _cells(grid: Grid, stride: tuple[int, int]) -> tuple[int, int]:
    rows, columns = grid.h // stride[0], grid.w // stride[1]
    if rows < 1 or columns < 1:
        raise Decline(f"a {grid.h}x{grid.w} grid has no whole cell of {stride[0]}x{stride[1]}: use a smaller stride")
    return rows, columns
