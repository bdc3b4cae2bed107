"""Samples divided among processes: each takes its part of the seeds, and gradients are averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import RecipeError, SkipstoneError

GO_ON, STOP, FAILED = 0, 1, 2
"""How a process is: well, asked to stop, or failed."""


class OtherFailed(SystemExit):
    """Another process failed and prints why; this one exits silently.

    Example:
        >>> OtherFailed(2).code
        2
    """


class Shards:
    """The part of one process. Uses torch.distributed if it is initialised, as by `accelerate launch`.

    Example:
        >>> Shards().part([4, 5, 6]), Shards().first  # a single process
        ([4, 5, 6], True)
    """

    interrupted = False
    """Was this process asked to stop? Of the process, not of one object."""

    def __init__(self) -> None:
        """Look up rank and number of processes."""
        import torch.distributed as dist

        self._on = dist.is_available() and dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if self._on else (0, 1)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def part(self, seeds: Sequence[int]) -> list[int]:
        """This process's samples. Raises :class:`RecipeError` if they cannot be divided evenly."""
        if len(seeds) % self.count:
            raise RecipeError(
                f"{len(seeds)} samples cannot be shared by {self.count} processes: give a multiple as --batch"
            )
        return list(seeds[self.rank :: self.count])

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, on each of them.

        If one was interrupted or failed, all stop here together: raises KeyboardInterrupt, or :class:`OtherFailed`.
        """
        if not self._on:
            return value
        state, _ = self.agree(STOP if Shards.interrupted else GO_ON)
        if state == FAILED:
            raise OtherFailed(2)
        if state == STOP:
            Shards.interrupted = False
            raise KeyboardInterrupt
        return (self._reduced(value.detach().clone(), "SUM") / self.count).to(value.device)

    def agree(self, state: int) -> tuple[int, int]:
        """The worst state of all processes, and the first process that is in it."""
        worst = self._reduced(torch.tensor([state]), "MAX")
        where = self._reduced(torch.tensor([self.rank if state == int(worst) else self.count]), "MIN")
        return int(worst), int(where)

    def _reduced(self, value: Tensor, how: str) -> Tensor:
        import torch.distributed as dist

        if not self._on:
            return value
        value = value.cuda() if dist.get_backend() == "nccl" else value
        try:
            dist.all_reduce(value, getattr(dist.ReduceOp, how))
        except RuntimeError as error:
            raise SkipstoneError(
                f"another process has gone ({str(error).splitlines()[0]}): start again, or continue with --resume"
            ) from None
        return value
