"""Latents whose rows are tokens or separate tensors: diffusers' networks get the rows and columns beside the latent."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import Decline

Rows = tuple[int, int, int]
"""Frames, rows and columns."""


class PackedRows:
    """Reads the size of packed latents from the arguments of a network's forward.

    Args:
        root: the network.

    Example:
        >>> class Network(nn.Module):
        ...     def forward(self, hidden_states, num_frames=None, height=None, width=None): ...
        >>> PackedRows(Network()).of((torch.zeros(1, 24, 8),), {"num_frames": 2, "height": 3, "width": 4})
        (2, 3, 4)
    """

    def __init__(self, root: nn.Module) -> None:
        """Read the names of the arguments."""
        self._names = tuple(signature(root.forward).parameters)
        self._ids: tuple[Tensor, Rows | None] | None = None

    def of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Rows | None:
        """Return the size of a latent; None if it is not known.

        Args:
            args: positional arguments of the forward.
            kwargs: its keyword arguments.
        """
        given = {**dict(zip(self._names, args, strict=False)), **kwargs}
        if isinstance(ids := given.get("img_ids"), Tensor):
            return self._by_ids(ids)
        if given.get("img_shapes"):
            return _by_shapes(given["img_shapes"])
        frames, rows, columns = (given.get(name) for name in ("num_frames", "height", "width"))
        if isinstance(frames, int) and isinstance(rows, int) and isinstance(columns, int):
            return frames, rows, columns
        return None

    def _by_ids(self, ids: Tensor) -> Rows | None:
        """Of positions [N, 3 or more] or [B, N, 3 or more]: frame, row and column, row by row. Waits for the device once a run."""
        if self._ids is None or self._ids[0] is not ids:
            self._ids = ids, _grid(ids.detach().reshape(-1, *ids.shape[-2:])[0, :, :3].cpu())
        return self._ids[1]


def stacked(value: Any) -> Tensor:
    """Return a latent [B, C, ...], or [B, N, C] if packed. Some networks take a list of its rows (Z-Image).

    Args:
        value: what the network is called on.

    Raises :class:`Decline` where it is no latent, or a list of pictures of different sizes.

    Example:
        >>> stacked([torch.zeros(4, 8, 8), torch.zeros(4, 8, 8)]).shape
        torch.Size([2, 4, 8, 8])
    """
    if isinstance(value, list) and value and all(isinstance(row, Tensor) for row in value):
        if len({row.shape for row in value}) > 1:
            raise Decline("its pictures are of different sizes")
        value = torch.stack(value)
    if not isinstance(value, Tensor) or value.ndim < 3:
        raise Decline("its input is no latent")
    return value


def _grid(places: Tensor) -> Rows | None:
    axes = [torch.unique(axis) for axis in places.unbind(1)]
    if not torch.equal(torch.cartesian_prod(*axes), places):
        return None
    frames, rows, columns = map(len, axes)
    return frames, rows, columns


def _by_shapes(shapes: Any) -> Rows | None:
    """Of frames, rows and columns of each picture, in a list for each sample; None for several pictures in a sample."""
    of_samples = {tuple(map(tuple, one)) if isinstance(one, list) else (tuple(one),) for one in shapes}
    if len(of_samples) != 1:
        return None
    (pictures,) = of_samples
    frames, rows, columns = pictures[0]
    return (frames, rows, columns) if len(pictures) == 1 else None
