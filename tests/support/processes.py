"""Two processes that find one another as launched ones do, forked where that is safe: they need not import torch again."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp


def run_together(work: Callable[..., Any], *arguments: Any) -> None:
    """Run `work(rank, *arguments)` in two processes; the environment is accelerate's and torchrun's. An error in one is raised."""
    method = "fork" if sys.platform == "linux" else "spawn"
    mp.start_processes(_one, (work, _free_port(), *arguments), nprocs=2, start_method=method)


def _one(rank: int, work: Callable[..., Any], port: int, *arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    work(rank, *arguments)
    os._exit(0)  # taking torch's own threads down at the end of a process aborts now and then on a busy machine


def _free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
