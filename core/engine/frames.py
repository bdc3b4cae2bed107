"""A forward as if each frame of its latent were a picture of its own, for what works on rows and columns."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from .call import Call
from .clock import Stream


def by_frame(call: Call) -> Call | None:
    """Return a forward whose rows are frames; None if its latent has no rows and columns. A picture is one frame.

    Args:
        call: the forward.

    Example:
        >>> video = by_frame(Call(999.0, (5, 8, 8), (Stream("cond", 2),)))
        >>> video.rows, video.latent
        (10, (8, 8))
    """
    if call.packed is None and len(call.latent) == 2:
        return call
    sizes = call.packed or call.latent
    if len(sizes) != 3:
        return None
    streams = tuple(Stream(stream.key, stream.rows * sizes[0]) for stream in call.streams)
    given = None if call.input is None else pictures_of(call.input, call)
    return replace(call, latent=sizes[1:], streams=streams, input=given, packed=None)


def pictures_of(x: Tensor, call: Call) -> Tensor | None:
    """Return a latent or a prediction as pictures [rows * frames, C, H, W]; None if its form is not that of the forward.

    Args:
        x: [rows, C, H, W], [rows, C, frames, H, W] or packed [rows, frames * H * W, C].
        call: the forward.

    Example:
        >>> import torch
        >>> pictures_of(torch.zeros(2, 24, 16), Call(999.0, (24,), (Stream("cond", 2),), packed=(2, 3, 4))).shape
        torch.Size([4, 16, 3, 4])
    """
    if len(x) != call.rows:
        return None
    if call.packed is not None:
        frames, rows, columns = call.packed
        if x.ndim != 3 or x.shape[1] != frames * rows * columns:
            return None
        return x.unflatten(1, call.packed).permute(0, 1, 4, 2, 3).flatten(0, 1)
    if x.ndim != 2 + len(call.latent) or x.shape[2:] != call.latent:
        return None
    return x.transpose(1, 2).flatten(0, 1) if x.ndim == 5 else x
