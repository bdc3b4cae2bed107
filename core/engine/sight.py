"""Which tokens of each attention are the picture's: the first forward of each cond runs in full and shows it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from ..errors import Decline
from ..tokens.grid import Grid
from ..tokens.span import Span, picture_sizes, treats_alike
from .call import Call
from .kernel import Attention
from .nest import leaves
from .pair_store import Layout
from .picture_tracer import PictureTracer

Where = tuple[str, int]
"""Name of a site, and the number of the kernel call in it."""


class Sight:
    """Which tokens of each attention are the picture's, by what the first forward of each cond shows.

    Args:
        compiled: whether the network is compiled, so that nothing in it can be seen.

    Example:
        >>> import torch
        >>> from .clock import Stream
        >>> sight, latent = Sight(), torch.zeros(1, 4, 8, 8)
        >>> sight.begin(Call(999.0, (8, 8), (Stream("cond", 1),), input=latent))
        >>> tokens = latent.flatten(2).transpose(1, 2).unsqueeze(1)
        >>> sight.see(("blocks.0", 0), Attention(tokens, tokens, tokens, None, run=print))
        >>> sight.end()
        >>> sight.looking, sight.spans[("blocks.0", 0)].grid.h
        (False, 8)
    """

    def __init__(self, compiled: bool = False) -> None:
        """Before the first forward."""
        self._compiled = compiled
        self._known: dict[Layout, dict[Where, Span | str | None]] = {}
        self._tracer: PictureTracer | None = None
        self._rows = 0
        self.spans: dict[Where, Span | str | None] = {}

    @property
    def looking(self) -> bool:
        """Whether the forward under way is one that must run in full."""
        return self._tracer is not None

    def begin(self, call: Call) -> None:
        """Begin a forward. Raises :class:`Decline` for a compiled network, and for a latent without rows and columns.

        Args:
            call: the forward.
        """
        self.end()
        if self._compiled or call.compiled:
            raise Decline("it is compiled (torch.compile), which hides its attention kernels")
        layout = call.keys()
        if layout in self._known:
            self.spans = self._known[layout]
            return
        sizes = _packed_sizes(call.packed) if call.packed else picture_sizes(call.latent)
        given = call.input if call.given is None else call.given
        latent = [value for _, value in leaves(given) if isinstance(value, Tensor)]
        if not sizes or not latent:
            raise Decline("its latent has no rows and columns")
        self.spans = self._known[layout] = {}
        self._tracer, self._rows = PictureTracer(sizes), call.rows
        self._tracer.open(latent)

    def see(self, where: Where, attention: Attention) -> None:
        """Register an attention of a forward that runs in full.

        Args:
            where: its place.
            attention: the kernel's call.
        """
        if self._tracer is None:
            return
        try:
            span = self._span(self._tracer, attention)
            if span and not treats_alike(attention.mask, span):
                raise Decline("its mask treats picture tokens differently")
            self.spans[where] = span
        except Decline as reason:
            self.spans[where] = str(reason)

    def _span(self, tracer: PictureTracer, attention: Attention) -> Span | None:
        if not attention.joint:
            return None
        if len(attention.q) != self._rows and attention.k in tracer:
            raise Decline(f"a batch of {len(attention.q)} where {self._rows} rows were announced")
        return tracer.span(attention.k, attention.k.shape[2])

    def end(self) -> None:
        """End a forward, complete or failed. It may be called twice."""
        if self._tracer is not None:
            self._tracer.close()
            self._tracer = None

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free what is known of streams that left the run."""
        gone = set(keys)
        self._known = {layout: spans for layout, spans in self._known.items() if not gone & set(layout)}


def _packed_sizes(packed: tuple[int, int, int]) -> dict[int, tuple[int, Grid]]:
    frames, rows, columns = packed
    return {frames * rows * columns: (frames, Grid(rows, columns, 1))}
