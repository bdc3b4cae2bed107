"""Where the tests of `gpu` run, and what is built for the CPU on that device."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from device_waits import waits as counted_on_the_cpu
from torch import Tensor

from pipelines import PIPELINES, Running

DEVICE = torch.device(os.environ.get("SKIPSTONE_TEST_DEVICE") or "cuda")
CUDA = DEVICE.type == "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HALVES = DTYPES[1:]
needs_cuda = pytest.mark.skipif(not CUDA, reason="this is about CUDA alone")
SHOWN = {"ids": lambda value: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None}
"""Further arguments of `pytest.mark.parametrize`, for names of tests."""


def moved(value: Any, device: Any = DEVICE, dtype: torch.dtype = torch.float32) -> Any:
    """A tensor, or those in lists and dicts, on a device; numbers with a point in a dtype. Generators stay where they are."""
    if isinstance(value, Tensor):
        return value.to(device, dtype) if value.is_floating_point() else value.to(device)
    if isinstance(value, dict):
        return {name: moved(v, device, dtype) for name, v in value.items()}
    return [moved(v, device, dtype) for v in value] if isinstance(value, list) else value


def placed(running: Running, device: Any = DEVICE, dtype: torch.dtype = torch.float32) -> Running:
    """A pipeline and its arguments, moved."""
    running.pipe.to(device, dtype)
    running.arguments = moved(running.arguments, device, dtype)
    return running


def pipeline(name: str, device: Any = DEVICE, dtype: torch.dtype = torch.float32) -> Running:
    """One of the pipelines, moved."""
    return placed(PIPELINES[name](), device, dtype)


@contextmanager
def exact() -> Iterator[None]:
    """CUDA computes in fp32 what is in fp32, and in a fixed order."""
    conv, matmul, before = (
        torch.backends.cudnn,
        torch.backends.cuda.matmul,
        torch.are_deterministic_algorithms_enabled(),
    )
    kept = conv.allow_tf32, matmul.allow_tf32, conv.deterministic, conv.benchmark
    conv.allow_tf32, matmul.allow_tf32, conv.deterministic, conv.benchmark = False, False, True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*deterministic.*")
            yield
    finally:
        conv.allow_tf32, matmul.allow_tf32, conv.deterministic, conv.benchmark = kept
        torch.use_deterministic_algorithms(before)


def apart(a: Tensor, b: Tensor) -> float:
    """The distance of two pictures over the size of the second, wherever they are."""
    a, b = (x.detach().double().cpu() for x in (a, b))
    return float((a - b).norm() / b.norm())


def device_waits(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> int:
    """How often the host waits for the device while `work` runs. On the CPU: what would make it wait, by operator."""
    if not CUDA:
        with counted_on_the_cpu(monkeypatch) as found:
            work()
        return len([name for name in found if name != "index"])  # index: with tensors it does not wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def allocated() -> int:
    """Bytes that live tensors take on the device."""
    gc.collect()
    if not CUDA:
        return 0
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def peak_of(work: Callable[[], Any]) -> int:
    """The most bytes that `work` takes on the device, beyond what is there before."""
    before = allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
