"""Timing that stands up to a busy machine: cases are interleaved, and minimum and median are told, never a mean.

Each round runs every case once, in an order of its own, so that a slow minute or a warm cache serves or hurts all alike.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

Case = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one case, one value per round."""

    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """Least seconds: the work itself, with the least of other people's."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    def over(self, base: Timing) -> float:
        """Median of the differences to another case of the same rounds, in seconds."""
        return statistics.median(a - b for a, b in zip(self.seconds, base.seconds, strict=True))

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON, in milliseconds."""
        return {"min_ms": self.minimum * 1e3, "median_ms": self.median * 1e3}


def interleave(
    cases: Mapping[str, Case],
    runs: int,
    on_round: Callable[[int], Any] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Run all cases `runs` times in shuffled rounds (an order of our own, no global RNG), after one unmeasured round."""
    rng, order = random.Random(0), list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    with _no_collection():
        for done in range(runs):
            rng.shuffle(order)
            for name in order:
                started = clock()
                cases[name]()
                seconds[name].append(clock() - started)
            on_round(done + 1)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def interleave_runs(
    lengths: Mapping[str, int],
    call: Callable[[str, int], object],
    rounds: int = 1,
    on_call: Callable[[int, int], Any] = lambda done, of: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[Timing]]:
    """Time runs of several calls side by side: all advance in step, in an order of our own within each step.

    lengths: calls of each run. call: (name, k) makes call k of that run; k counts up. on_call: (calls done, of how many).
    Returns a Timing for each call of each run, one value per round.
    """
    rng = random.Random(0)
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in range(count)] for name, count in lengths.items()}
    total, done = rounds * sum(lengths.values()), 0
    with _no_collection():
        for _ in range(rounds):
            places = [((k + rng.random()) / count, name, k) for name, count in lengths.items() for k in range(count)]
            for _, name, k in sorted(places):
                started = clock()
                call(name, k)
                seconds[name][k].append(clock() - started)
                done += 1
                on_call(done, total)
    return {name: [Timing(tuple(values)) for values in calls] for name, calls in seconds.items()}


def per_iteration(case: Case, loops: int = 200, runs: int = 30) -> float:
    """Least seconds of one pass of something that takes microseconds, the empty loop's share taken off."""

    def loop(body: Case) -> Case:
        return lambda: [body() for _ in range(loops)]

    took = interleave({"case": loop(case), "empty": loop(lambda: None)}, runs)
    return (took["case"].minimum - took["empty"].minimum) / loops


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the measurement."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch on `count` threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def wait(device: torch.device) -> None:
    """Until a device has done all that it was given."""
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a figure must be read with: device, processor, threads, versions, date (UTC), load."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "load": [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
