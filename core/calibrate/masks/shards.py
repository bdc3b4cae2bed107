"""Samples spread over processes: each takes its part of the seeds, gradients are averaged."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...errors import RecipeError


class Shards:
    """The part of one process. Reads torch.distributed where that is initialised, as by `accelerate launch`."""

    def __init__(self) -> None:
        """Look up rank and number of processes."""
        import torch.distributed as dist

        self._on = dist.is_available() and dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if self._on else (0, 1)

    @property
    def first(self) -> bool:
        """Is this the process that writes files and shows progress?"""
        return self.rank == 0

    def part(self, seeds: Sequence[int]) -> list[int]:
        """This process's samples. Raises :class:`RecipeError` where they cannot be shared out evenly."""
        if len(seeds) % self.count:
            raise RecipeError(
                f"{len(seeds)} samples cannot be shared by {self.count} processes: give a multiple as --batch"
            )
        return list(seeds[self.rank :: self.count])

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes, on each of them."""
        if not self._on:
            return value
        import torch.distributed as dist

        total = value.detach().clone()
        if dist.get_backend() == "nccl":
            total = total.cuda()
        dist.all_reduce(total)
        return (total / self.count).to(value.device)
