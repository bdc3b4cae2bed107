"""`skipstone bench speed`: the time of whole pictures and videos on models of full size, beside fewer steps and packages.

Weights are random: the time of a network does not depend on them. What a skipped step costs in quality is measured elsewhere, on
models that are trained.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ...core.errors import RecipeError, SkipstoneError, reason_of
from ...core.files import make_folder, write_json
from ...core.measure.macs import count
from ...core.measure.timing import clock_of, interleave, machine
from ...core.recipe.call_skip import CallSkip
from ...pipelines.accelerate import Handle
from .field.package import quiet
from .figures import Figures, Files, Progress, publish
from .skipped_call import each_forward, timed
from .speed_models import Place, SpeedModel, Whole, speed_model
from .speed_tables import SPEED
from .speed_ways import DENSE, FEWER, OURS, Way, ours, peers

_LEAST_STEPS = 9
"""With fewer steps no call is skipped."""
Make = Callable[[SpeedModel, Place], Whole]


@dataclass(frozen=True)
class SpeedBench(Files):
    """Time whole pictures and videos on models of full size: dense, Auto, fewer steps and packages, interleaved run by run.

    Example:
        >>> SpeedBench(steps=4).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: --steps must be 9 or more, or 0 for the model's own; --rounds 1 or more
    """

    models: tuple[SpeedModel, ...] = ("sd15", "sdxl", "flux", "qwen_image", "z_image", "wan_1.3b")
    """Which models. Flux takes 24 GB in bfloat16, Qwen-Image 41 GB."""
    speedups: tuple[float, ...] = (1.5, 2.0, 3.0)
    """Of Auto."""
    steps: int = 0
    """Sampling steps; 0 for those that people run the model with (28 or 30)."""
    size: int = 0
    """Picture side, or height of a 16:9 video, in pixels; 0 for the model's own."""
    frames: int = 81
    """Frames of a video."""
    rounds: int = 3
    """Timed runs of each way, which take turns."""
    peers: bool = True
    """Time deepcache, cache-dit and diffusers' TaylorSeer, too."""
    compiled: bool = False
    """Compile the networks' blocks by torch.compile; without peers."""
    device: str = "cuda"
    """Where to run: cuda, cpu, mps. On CUDA times are taken by its events, and memory by its allocator."""
    dtype: str = "bfloat16"
    """Precision of the networks: bfloat16, float16 or float32."""
    out: Path = Path("out/bench_speed.json")

    def check(self) -> None:
        """Raise :class:`RecipeError` for options that cannot be measured."""
        if 0 < self.steps < _LEAST_STEPS or self.steps < 0 or self.rounds < 1:
            raise RecipeError(f"--steps must be {_LEAST_STEPS} or more, or 0 for the model's own; --rounds 1 or more")
        if self.dtype not in ("bfloat16", "float16", "float32"):
            raise RecipeError(f"--dtype {self.dtype!r} must be bfloat16, float16 or float32")
        if not all(speedup > 1 for speedup in self.speedups):
            raise RecipeError(f"--speedups {list(self.speedups)} must be above 1")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise RecipeError("torch finds no CUDA device: give --device cpu, with small models and patience")

    @property
    def place(self) -> Place:
        """Where models are made."""
        return Place(self.device, getattr(torch, self.dtype), self.size, self.frames)


def run_speed_bench(options: SpeedBench, say: Progress = print, command: str = "") -> Figures:
    """Measure or load, then show, save and document.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for options and files that cannot be used.

    Example:
        >>> run_speed_bench(SpeedBench(load=Path("no such file")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench speed' ...
    """
    if not options.load:
        options.check()

    def keep(result: Figures) -> None:
        make_folder(options.out.parent)
        write_json(options.out, result)

    return publish(SPEED, options, lambda: measure(options, say, command, keep=keep), say)


def measure(
    options: SpeedBench,
    say: Progress,
    command: str = "",
    make: Make = speed_model,
    keep: Callable[[Figures], object] = lambda result: None,
) -> Figures:
    """Measure all models, one after the other. One that cannot be had or that does not fit into the memory is left out.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.
        make: makes a model.
        keep: given the figures so far after each model.

    Example:
        >>> measure(SpeedBench(models=(), device="cpu"), print)["models"]
        []
    """
    found: list[dict[str, Any]] = []
    absent: list[str] = []
    result = {
        "command": command, "machine": machine(options.device), "absent": absent, "dtype": options.dtype,
        "compiled": options.compiled, "rounds": options.rounds, "models": found,
    }  # fmt: skip
    for name in options.models:
        say(f"{name}: making it")
        try:
            with quiet():
                found.append(_model(name, make(name, options.place), options, say))
            absent += [f"{name}, {line}" for line in found[-1]["absent"]]
        except (SkipstoneError, torch.cuda.OutOfMemoryError) as error:
            absent.append(f"{name} ({reason_of(error)})")
            say(absent[-1])
        keep(result)
        gc.collect()
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
    return result


def _model(name: str, whole: Whole, options: SpeedBench, say: Progress) -> dict[str, Any]:
    """Measure one model."""
    steps = options.steps or whole.steps
    runs: dict[str, _Run] = {}
    for way in _ways(whole, steps, options):
        run = _Run(way, whole, steps, options)
        say(f"{name}: {way.name}{f' is left out, {run.reason}' if run.reason else ''}")
        runs[way.name] = run
        if way.group == OURS and run.full < steps:
            fewer = Way(f"{run.full} steps", FEWER, steps=run.full)
            runs.setdefault(fewer.name, _Run(fewer, whole, steps, options))
    cases = {key: run.draw for key, run in runs.items() if not run.reason}
    took = interleave(
        cases, options.rounds, lambda done: say(f"{name}: round {done} of {options.rounds}"),
        clock_of(torch.device(options.device)), warm=True,
    )  # fmt: skip
    dense = runs[DENSE]
    rows = [
        {
            **run.figures(), "way": key, "group": run.way.group, **took[key].to_dict(),
            "faster": took[DENSE].median / took[key].median, "more_bytes": run.peak - dense.peak,
        }
        for key, run in runs.items()
        if key in took
    ]  # fmt: skip
    absent = [f"{key}: {run.reason}" for key, run in runs.items() if run.reason]
    parameters = sum(p.numel() for p in whole.network.parameters())
    return {
        "model": name, "what": whole.what, "steps": steps, "parameters": parameters, "rows": rows, "absent": absent,
        "calls": _calls(whole, options),
    }  # fmt: skip


def _ways(whole: Whole, steps: int, options: SpeedBench) -> Iterator[Way]:
    yield Way(DENSE, DENSE)
    yield from ours(options.speedups)
    if options.peers and not options.compiled:
        yield from peers(whole, steps)


class _Run:
    """A way on a network of its own; weights are shared. It draws once at the beginning, which is not timed.

    Attributes:
        reason: why it does not run; "" if it does.
        full: steps in which the whole network runs.
        peak: the most bytes that a run takes beyond what there was before the way was installed; 0 where that is not known.
    """

    def __init__(self, way: Way, whole: Whole, steps: int, options: SpeedBench) -> None:
        self.way, self.reason, self.full, self.peak = way, "", way.steps or steps, 0
        self._whole, self._steps, self._handle = whole.copied(), way.steps or steps, None
        cuda = options.device.startswith("cuda")
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if cuda else 0
        try:
            self._handle = way.install(self._whole)
            if options.compiled:
                self._whole.network.compile_repeated_blocks()  # type: ignore[operator]
            self.draw()
        except Exception as error:
            if way.group in (DENSE, FEWER, OURS):
                raise  # packages may fail; ours must not do so unseen
            self.reason = reason_of(error)
            return
        self.peak = torch.cuda.max_memory_allocated() - before if cuda else 0
        self.full = _full(self._handle, self._steps) if self._handle else way.full(self._steps)

    def draw(self) -> object:
        """Draw once."""
        return self._whole.draw(self._steps)

    def figures(self) -> dict[str, Any]:
        """What is known without the times."""
        held = self._handle.report().cache_bytes if self._handle else None
        return {"steps": self._steps, "full": self.full, "cache_bytes": held}


def _full(handle: Handle, steps: int) -> int:
    """Return the number of steps that ran: those whose calls were not skipped."""
    report = handle.report()
    return round(steps * report.calls_run / report.calls)


def _calls(whole: Whole, options: SpeedBench) -> dict[str, dict[str, float]]:
    """Return what a forward takes that runs, and one that is skipped, in a run at 2x: operations, and milliseconds with a wait
    after each."""
    steps, found = options.steps or whole.steps, {}
    with ExitStack() as stack:
        copied = whole.copied()
        handle = stack.enter_context(ours((2.0,))[0].install(copied))  # type: ignore[arg-type]
        with timed(copied.network, clock_of(torch.device(options.device))) as seconds:
            copied.draw(steps)
        chosen = handle.chosen()
        keys = chosen.calls.keys if chosen and isinstance(chosen.calls, CallSkip) else ()
        with each_forward(copied.network, count) as counts:
            copied.draw(steps)
    for name, ran in (("the network", True), ("skipped", False)):
        places = [n for n in range(len(seconds)) if (n * steps // len(seconds) in keys) is ran]
        if places:
            found[name] = {
                "median_ms": median(seconds[n] for n in places) * 1e3,
                "ops": median(counts[n].ops for n in places),
            }
    return found
