"""`skipstone bench skips`: what block skipping saves on a whole SD1.5 U-Net, beside the DeepCache package and the bound.

The bound is the dense run's multiply-adds over the way's own. Calls with equal multiply-adds are of one kind; a run's time is
the sum of its kinds' medians, so that a slow moment of the machine has no effect.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ...core.errors import RecipeError, SkipstoneError
from ...core.measure.timing import Timing, interleave_runs, machine, threads
from .figures import Bench, Figures, Files, Progress, Table, publish
from .one_block import LATENT_FACTOR
from .skip_ways import DENSE, Walk, Way, absent, call_macs, ways
from .unet import UNetInputs, sd15_unet

MOST_DIFFERENT = 1e-2
"""By how much two ways that do the same work may differ, as a share of the largest output."""
_TELL_EVERY = 20


@dataclass(frozen=True)
class SkipBench(Files):
    """Time block skipping on a whole SD1.5 U-Net: dense, the DeepCache package, Skipstone's rules and DaTo, interleaved.

    Example:
        >>> SkipBench(size=500).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: size 500 must be a multiple of 64 pixels, for instance 512
    """

    size: int = 512
    """Picture side in pixels."""
    batch: int = 2
    """Samples in a call: cond and uncond of one picture."""
    calls: int = 15
    """Calls of a run."""
    dato_calls: int = 51
    """Calls of DaTo's runs: its schedules were made for the 51 calls of 50 PLMS steps. 0 leaves them out."""
    intervals: tuple[int, ...] = (3, 5)
    """DeepCache intervals."""
    rounds: int = 1
    """Runs of each way, side by side."""
    threads: int | None = None
    """torch threads; torch's own number without it."""
    clock: Literal["wall", "processor"] = "wall"
    """Seconds of the wall's clock, or of the processor, which other work on the machine disturbs less (use one thread)."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the U-Net."""
    out: Path = Path("out/bench_skips.json")

    def check(self) -> None:
        """Raise :class:`RecipeError` for options that cannot be measured."""
        if self.size < 8 * LATENT_FACTOR or self.size % (8 * LATENT_FACTOR):
            raise RecipeError(f"size {self.size} must be a multiple of {8 * LATENT_FACTOR} pixels, for instance 512")
        if min((self.batch, self.calls, self.rounds, 1 if self.threads is None else self.threads)) < 1:
            raise RecipeError("batch, calls, rounds and threads must be whole numbers from 1 on")
        if self.dato_calls < 0:
            raise RecipeError(f"dato-calls {self.dato_calls} must be 51, or 0 for none")
        if any(every < 2 or self.calls % every for every in self.intervals):
            raise RecipeError(
                f"intervals {list(self.intervals)} must divide the {self.calls} calls, so that a run has whole intervals"
            )


def run_skip_bench(options: SkipBench, say: Progress = print, command: str = "") -> Figures:
    """Measure or load, then show, save and document.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for options, files or packages that cannot be used.

    Example:
        >>> run_skip_bench(SkipBench(load=Path("no such file")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench skips' ...
    """
    options.check()
    with threads(options.threads or torch.get_num_threads()):
        return publish(SKIPS, options, lambda: measure(options, say, command), say)


def measure(options: SkipBench, say: Progress, command: str = "", make: Callable[[], Any] = sd15_unet) -> Figures:
    """Measure all figures of the bench.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.
        make: makes a U-Net with weights, on torch's default device.

    Returns plain values.

    Example:
        >>> found = measure(SkipBench(size=64, calls=6, intervals=(3,)), print)  # doctest: +SKIP
        >>> found["rows"][0]["name"]  # doctest: +SKIP
        'dense'
    """
    found = ways(options.calls, options.intervals, options.dato_calls)
    say("counting multiply-adds")
    with torch.device("meta"):
        bare = make()
    macs = {way.name: call_macs(bare, way, UNetInputs(bare, options.batch, options.size)) for way in found}
    before = machine(options.device)
    unet = nn.Module.to(make(), options.device, getattr(torch, options.dtype))  # diffusers' own warns of any dtype
    walks = {way.name: Walk(unet, way, UNetInputs(unet, options.batch, options.size)) for way in found}
    walks[DENSE].call(0)  # warm
    times = interleave_runs(
        {way.name: way.calls for way in found},
        lambda name, k: walks[name].call(k),
        options.rounds,
        _teller(say),
        time.process_time if options.clock == "processor" else time.perf_counter,
    )
    rows = [_row(way, times[way.name], macs[way.name]) for way in found]
    return {
        "command": command,
        "machine": before,
        "absent": absent(),
        **{key: getattr(options, key) for key in ("size", "batch", "rounds", "dtype", "clock")},
        "rows": _compared(rows, found, walks),
    }


def _teller(say: Progress) -> Callable[[int, int], Any]:
    return lambda done, of: say(f"call {done} of {of}") if done % _TELL_EVERY == 0 else None


def _row(way: Way, times: list[Timing], macs: list[int]) -> dict[str, Any]:
    """One way. kinds: [calls of this kind in a run, multiply-adds, median seconds], the most expensive kind first."""
    kinds = []
    for cost in sorted(set(macs), reverse=True):
        places = [k for k, m in enumerate(macs) if m == cost]
        seconds = statistics.median(s for k in places for s in times[k].seconds)
        kinds.append([len(places), cost, seconds])
    rounds = zip(*(t.seconds for t in times), strict=True)
    return {
        "name": way.name,
        "calls": way.calls,
        "kinds": kinds,
        "seconds": sum(count * seconds for count, _, seconds in kinds),
        "seconds_as_run": statistics.median(map(sum, rounds)),
    }


def _compared(rows: list[dict[str, Any]], found: list[Way], walks: dict[str, Walk]) -> list[dict[str, Any]]:
    """Rows set against the dense run of as many calls, and against their peers."""
    by_name = {row["name"]: row for row in rows}
    _, dense_macs, dense_seconds = by_name[DENSE]["kinds"][0]
    for way, row in zip(found, rows, strict=True):
        row["times_faster"] = way.calls * dense_seconds / row["seconds"]
        row["bound"] = way.calls * dense_macs / sum(count * macs for count, macs, _ in row["kinds"])
        row["cache_bytes"] = walks[way.name].cache_bytes
        if way.peer in by_name:
            row["over_peer"] = by_name[way.peer]["seconds"] / row["seconds"]
            row["difference"] = _difference(walks[way.name], walks[way.peer])
    return rows


def _difference(ours: Walk, peer: Walk) -> float:
    """Largest difference between two ways' outputs. Raises :class:`SkipstoneError` where they did other work."""
    pairs = [(ours.outputs[k], peer.outputs[k]) for k in ours.outputs]
    worst = max(float((a - b).abs().max()) for a, b in pairs)
    if worst > MOST_DIFFERENT * max(float(b.abs().max()) for _, b in pairs):
        raise SkipstoneError(f"{ours.way.name} and {peer.way.name} differ by {worst:.2g}: the rows do not compare")
    return worst


def tables(result: Figures) -> list[Table]:
    """The table of this bench.

    Example:
        >>> tables({"size": 512, "batch": 2, "dtype": "float32", "rounds": 1, "rows": []})[0].rows
        ()
    """
    title = (
        f"whole SD1.5 U-Net, {result['size']} px, batch {result['batch']}, {result['dtype']}, rounds: {result['rounds']}, "
        f"{result.get('clock', 'wall')} time; "
        "outputs of Skipstone and the package agree within "
        f"{max((row['difference'] for row in result['rows'] if 'difference' in row), default=0.0):.1g}"
    )
    header = ("variant", "calls x seconds", "run s", "times faster", "bound", "reached", "cache MiB", "vs package")
    return [Table(title, (*header, "dense calls in its time"), tuple(map(_cells, result["rows"])))]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        ", ".join(f"{count} x {seconds:.3g}" for count, _, seconds in row["kinds"]),
        f"{row['seconds']:.1f}",
        f"{row['times_faster']:.2f}",
        f"{row['bound']:.2f}",
        f"{row['times_faster'] / row['bound']:.0%}",
        f"{row['cache_bytes'] / 2**20:.1f}",
        f"{row['over_peer']:.2f}x" if "over_peer" in row else "",
        f"{row['calls'] / row['times_faster']:.1f} of {row['calls']}",
    )


SKIPS = Bench("skips", ("size", "batch", "rounds", "dtype", "rows"), tables)
