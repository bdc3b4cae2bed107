"""The network of a pipeline."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.errors import ModelError


def network_of(target: Any) -> Any:
    """Return a model itself, or the `unet` or `transformer` of a pipeline.

    Raises :class:`ModelError` if there is none.

    Example:
        >>> network_of(nn.Identity())
        Identity()
    """
    if isinstance(target, nn.Module):
        return target
    for name in ("unet", "transformer"):
        if isinstance(getattr(target, name, None), nn.Module):
            return getattr(target, name)
    raise ModelError(f"{type(target).__name__} is not a model and has no unet or transformer: give one that has")
