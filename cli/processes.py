"""Training in several processes: under `accelerate launch` they are connected here, and end together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch

from ..core.calibrate.masks.shards import FAILED, GO_ON, STOP, OtherFailed, Shards
from ..core.errors import RecipeError

_MPI = ("OMPI_COMM_WORLD", "MV2_COMM_WORLD", "PMI")
"""Under `accelerate launch --cpu --mpirun_hostfile` rank and number stand under MPI's own names."""


@contextmanager
def joined(device: str) -> Iterator[tuple[Shards, str]]:
    """Context manager: connect the processes that a launcher started. Its value is this process's shards and device.

    accelerate and torchrun put rank, number of processes and address into the environment; without them this is a single
    process. An error in one process ends all, and one prints it; Ctrl-C ends all after the same step.

    Args:
        device: "cpu", "cuda" or "mps".

    Raises :class:`RecipeError` if the others cannot be found.

    Example:
        >>> with joined("cpu") as (shards, device):
        ...     shards.count, device
        (1, 'cpu')
    """
    _read_mpi()
    _check_number()
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or _initialised():
        yield Shards(), device
        return
    _meet(device)
    import torch.distributed as dist

    try:
        shards, own = Shards(), _own(device)
        with _quiet(shards), _interruptible(), _together(shards):
            yield shards, own
    finally:
        dist.destroy_process_group()


def _read_mpi() -> None:
    for prefix in _MPI:
        if f"{prefix}_SIZE" in os.environ:
            local = os.environ.get(f"{prefix}_LOCAL_RANK", "0")
            names = {"RANK": f"{prefix}_RANK", "WORLD_SIZE": f"{prefix}_SIZE"}
            os.environ.update({name: os.environ[key] for name, key in names.items()} | {"LOCAL_RANK": local})


def _check_number() -> None:
    """accelerate starts several processes on CPUs under MPI or --multi_gpu alone; else one, whatever number was asked for."""
    if (
        os.environ.get("ACCELERATE_USE_CPU") == "True"
        and "MASTER_ADDR" in os.environ
        and "WORLD_SIZE" not in os.environ
    ):
        raise RecipeError("accelerate started one process only: give --multi_gpu in place of --cpu, also for CPUs")


def _initialised() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def _meet(device: str) -> None:
    import torch.distributed as dist

    if not dist.is_available():
        raise RecipeError("this torch has no distributed package: start one process")
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"the processes cannot find one another ({reason}): start them by accelerate or torchrun"
        ) from None


@contextmanager
def _together(shards: Shards) -> Iterator[None]:
    """Every process comes to one last agreement, so that none closes the process group while others use it."""
    try:
        yield
    except OtherFailed:
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        mine = STOP if isinstance(error, KeyboardInterrupt) else FAILED
        if shards.agree(mine)[1] != shards.rank:
            raise SystemExit(130 if mine == STOP else 2) from None
        raise
    if shards.agree(GO_ON)[0] == FAILED:
        raise OtherFailed(2)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is kept until all processes can stop at the same step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: Any) -> None:
        Shards.interrupted = True

    Shards.interrupted = False
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet(shards: Shards) -> Iterator[None]:
    """Only the first process prints; output of the others is dropped. Errors are raised to the caller."""
    if shards.first:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _own(device: str) -> str:
    """The device of this process among those of its machine."""
    if device != "cuda":
        return device
    number = int(os.environ.get("LOCAL_RANK", "0"))
    torch.cuda.set_device(number)
    return f"cuda:{number}"
