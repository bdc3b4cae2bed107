"""What every method is in one run: a part, which decides each forward and overrides modules in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..plan.run import Horizon
from .call import Call
from .clock import Tick
from .meter import Meter
from .override import Override


class Part(Protocol):
    """One method in one run."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""

    @property
    def evaluates(self) -> bool:
        """Whether this forward computes anything new. False if it uses cached values only."""

    @property
    def plain_serves(self) -> bool:
        """Whether a module may run plain in the middle of this forward. False if its inputs may have been left out."""

    def overrides(self) -> list[Override]:
        """Return the overrides for a forward that this part serves."""

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide a forward; False leaves it unchanged.

        Args:
            tick: the call that the forward belongs to.
            call: the forward.
        """

    def end(self) -> None:
        """End a forward, complete or failed. It may be called without :meth:`begin`."""

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the state of streams (:meth:`skipstone.core.engine.call.Call.keys`) that left the run."""

    def close(self) -> None:
        """End the run: report what was done, and free everything."""


@runtime_checkable
class Listener(Protocol):
    """A part that reads the network's raw output."""

    def listen(self, output: Tensor) -> None:
        """Register the raw output of the forward that :meth:`Part.begin` decided, before guidance and denoising."""


Maker = Callable[[Horizon, Meter], Part]
"""(horizon, meter) -> the part of one run."""
