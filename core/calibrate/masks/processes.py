"""Training on several processes: under `accelerate launch` they find one another here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .shards import Shards


@contextmanager
def joined(device: str) -> Iterator[tuple[Shards, str]]:
    """The processes that a launcher started, and this one's device. One process alone where nobody launched more.

    accelerate and torchrun tell rank, number and meeting place in the environment.
    """
    import torch.distributed as dist

    wanted = int(os.environ.get("WORLD_SIZE", "1")) > 1 and dist.is_available() and not dist.is_initialized()
    if wanted:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Shards(), _own(device, wanted)
        if wanted:
            dist.barrier()  # nobody takes the meeting place down while others still use it
    finally:
        if wanted:
            dist.destroy_process_group()


def _own(device: str, several: bool) -> str:
    """The device of this process among those of its machine."""
    if device != "cuda" or not several:
        return device
    number = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(number)
    return f"cuda:{number}"
