"""Timing on a busy machine: cases are interleaved, and minimum and median are reported, never a mean.

Each round runs every case once, in a new order, so that a slow minute or a warm cache affects all cases in the same way.
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
    """Seconds of one case, one value per round.

    Example:
        >>> timing = Timing((0.3, 0.1, 0.2))
        >>> timing.minimum, timing.median, round(timing.over(Timing((0.2, 0.1, 0.1))), 3)
        (0.1, 0.2, 0.1)
    """

    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """Least seconds, which contain the least of other processes' work."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    def over(self, base: Timing) -> float:
        """Median of the differences to a base case of the same rounds, in seconds."""
        return statistics.median(a - b for a, b in zip(self.seconds, base.seconds, strict=True))

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON, in milliseconds."""
        return {"min_ms": self.minimum * 1e3, "median_ms": self.median * 1e3}


def interleave(
    cases: Mapping[str, Case],
    runs: int,
    on_round: Callable[[int], Any] = lambda done: None,
    clock: Callable[[], float] = time.perf_counter,
    warm: bool = False,
) -> dict[str, Timing]:
    """Time cases in shuffled rounds, after one round that is not measured. The global random state is not used.

    Args:
        cases: name -> function that is timed.
        runs: number of rounds.
        on_round: called with the number of rounds done.
        clock: time in seconds.
        warm: each case has just run, so that no round is needed to warm up.

    Example:
        >>> ticks = iter(range(100))
        >>> interleave({"a": lambda: None}, runs=2, clock=lambda: next(ticks))
        {'a': Timing(seconds=(1, 1))}
    """
    rng, order = random.Random(0), list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in () if warm else cases.values():
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
    """Time runs of several calls side by side: all progress at the same rate, in a shuffled order. No global random state.

    Args:
        lengths: name of a run -> its number of calls.
        call: function of name and k that makes call k of that run; k counts up from 0.
        rounds: how often all runs are repeated.
        on_call: called with the number of calls done, and of all calls.
        clock: time in seconds.

    Returns a :class:`Timing` for each call of each run, with one value per round.

    Example:
        >>> ticks = iter(range(100))
        >>> interleave_runs({"a": 2}, lambda name, k: None, clock=lambda: next(ticks))
        {'a': [Timing(seconds=(1,)), Timing(seconds=(1,))]}
    """
    rng = random.Random(0)
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in range(count)] for name, count in lengths.items()}
    total, done = rounds * sum(lengths.values()), 0
    with _no_collection():
        for _ in range(rounds):
            # Call k of a run comes at a random time in [k, k + 1) of its `count` equal parts of the round.
            places = [((k + rng.random()) / count, name, k) for name, count in lengths.items() for k in range(count)]
            for _, name, k in sorted(places):
                started = clock()
                call(name, k)
                seconds[name][k].append(clock() - started)
                done += 1
                on_call(done, total)
    return {name: [Timing(tuple(values)) for values in calls] for name, calls in seconds.items()}


def per_iteration(case: Case, loops: int = 200, runs: int = 30) -> float:
    """Least seconds of one pass of a function that takes microseconds, without the time of the loop itself.

    Args:
        case: function that is timed.
        loops: passes per measurement.
        runs: number of measurements.

    Example:
        >>> per_iteration(lambda: sum(range(1000)), loops=10, runs=3) > 0
        True
    """

    def loop(body: Case) -> Case:
        return lambda: [body() for _ in range(loops)]

    took = interleave({"case": loop(case), "empty": loop(lambda: None)}, runs)
    return (took["case"].minimum - took["empty"].minimum) / loops


@contextmanager
def _no_collection() -> Iterator[None]:
    """Turn Python's garbage collector off during a measurement."""
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
    """Context manager in which torch uses `count` threads.

    Example:
        >>> with threads(1):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds: CUDA's events where the work is queued on a GPU, the processor's elsewhere.

    Args:
        device: that works.

    Example:
        >>> clock_of(torch.device("cpu")) is time.perf_counter
        True
    """
    return _cuda_clock() if device.type == "cuda" else time.perf_counter


def _cuda_clock() -> Callable[[], float]:
    """Return a clock that reads when the GPU has done all that was queued before."""
    begin = torch.cuda.Event(enable_timing=True)
    begin.record()

    def clock() -> float:
        now = torch.cuda.Event(enable_timing=True)
        now.record()
        now.synchronize()
        return begin.elapsed_time(now) / 1e3

    return clock


def wait(device: torch.device) -> None:
    """Wait until a device has finished its queue.

    Example:
        >>> wait(torch.device("cpu"))
    """
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def machine(device: str = "cpu") -> dict[str, Any]:
    """Where figures were measured: device, processor, threads, versions, date (UTC) and load.

    Example:
        >>> list(machine())
        ['device', 'cpu', 'cores', 'threads', 'torch', 'python', 'date', 'load']
    """
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
