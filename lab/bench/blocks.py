"""`skipstone bench blocks`: merging and pruning inside the attention of one block of Flux, Qwen-Image or Wan at its real size.

Only the two products of attention run on fewer tokens there, so their share is the bound. The bench counts it, and shows which
part of it the time reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.errors import RecipeError
from ...core.measure.macs import count_macs
from ...core.measure.timing import Timing, clock_of, interleave, machine, threads
from ...core.recipe.token_merge import TokenMerge
from ...core.recipe.token_prune import TokenPrune
from ...pipelines.accelerate import accelerate
from .figures import Bench, Figures, Files, Progress, Table, publish
from .one_block import twin
from .real_blocks import RealBlock, RealModel, real_block

_FIRST = 900.0
"""Timestep of the first call; each further one is a little lower."""


@dataclass(frozen=True)
class BlockBench(Files):
    """Time merging and pruning on one block of a transformer of today, beside the dense block, interleaved.

    Example:
        >>> BlockBench(ratios=(1.5,)).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: ratios [1.5] must lie in (0, 1), for instance 0.5
    """

    models: tuple[RealModel, ...] = ("flux", "qwen_image", "wan_1.3b")
    """Which models."""
    size: int = 1024
    """Picture side in pixels."""
    video: tuple[int, int] = (480, 21)
    """Height of a 16:9 video in pixels, and its frames."""
    ratios: tuple[float, ...] = (0.5, 0.75)
    """Pruned shares of the picture's tokens."""
    threshold: float = 0.7
    """Similarity from which tokens merge; random weights give no meaningful share."""
    runs: int = 5
    """Interleaved rounds."""
    threads: int = 1
    """torch threads."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps. On CUDA times are taken by its events."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the block."""
    out: Path = Path("out/bench_blocks.json")

    def check(self) -> None:
        """Raise :class:`RecipeError` for options that cannot be measured."""
        if any(not 0 < ratio < 1 for ratio in self.ratios):
            raise RecipeError(f"ratios {list(self.ratios)} must lie in (0, 1), for instance 0.5")
        if self.runs < 1 or min(self.size, *self.video) < 1:
            raise RecipeError("runs, size and video must be 1 or more")


def run_block_bench(options: BlockBench, say: Progress = print, command: str = "") -> Figures:
    """Measure or load, then show, save and document.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for options and files that cannot be used.

    Example:
        >>> run_block_bench(BlockBench(load=Path("no such file")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench blocks' ...
    """
    options.check()
    with threads(options.threads):
        return publish(Bench("blocks", ("rows",), tables), options, lambda: measure(options, say, command), say)


def measure(options: BlockBench, say: Progress, command: str = "") -> Figures:
    """Measure all blocks with torch's present number of threads.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Example:
        >>> measure(BlockBench(models=()), print)["rows"]
        []
    """
    rows: list[dict[str, Any]] = []
    for model in options.models:
        size, frames = options.video if model.startswith("wan") else (options.size, 1)
        block = real_block(model, size, frames).to(options.device, getattr(torch, options.dtype))
        rows += _rows(model, block, options, say)
    return {"command": command, "machine": machine(options.device), "absent": [], "dtype": options.dtype, "rows": rows}


def ways(block: RealBlock, ratios: tuple[float, ...], threshold: float) -> dict[str, Callable[[], Tensor]]:
    """Return every way to run a block once, by name; pairs are searched where the name says so, else reused.

    Args:
        block: what runs.
        ratios: pruned shares.
        threshold: of merging.

    Example:
        >>> found = ways(real_block("flux", size=64, channels=32), ratios=(0.5,), threshold=0.7)
        >>> list(found)
        ['dense', 'pruned 50%', 'pruned 50%, searching', 'merged from 0.7', 'merged from 0.7, searching']
    """
    found: dict[str, Callable[[], Tensor]] = {"dense": partial(block.call, block.network, _FIRST)}
    for ratio in ratios:
        found |= _both(block, f"pruned {ratio:.0%}", partial(TokenPrune, ratio=ratio))
    return found | _both(block, f"merged from {threshold:g}", partial(TokenMerge, threshold=threshold))


def _both(
    block: RealBlock, name: str, method: Callable[..., TokenMerge | TokenPrune]
) -> dict[str, Callable[[], Tensor]]:
    return {name: _way(block, method(checkpoints=(0,))), f"{name}, searching": _way(block, method(checkpoints="every"))}


def _way(block: RealBlock, method: TokenMerge | TokenPrune) -> Callable[[], Tensor]:
    """Return a call of a twin of the block's network. Two calls come first: one shows the picture's tokens, one searches."""
    network, times = twin(block.network), _falling()
    accelerate(network, method)
    for _ in range(2):
        block.call(network, next(times))
    return lambda: block.call(network, next(times))


def _falling() -> Iterator[float]:
    return (_FIRST - 0.1 * number for number in count())


def _rows(model: str, block: RealBlock, options: BlockBench, say: Progress) -> list[dict[str, Any]]:
    """Return one row per way: its time and its multiply-adds, beside those of the dense block."""
    found = ways(block, options.ratios, options.threshold)
    macs = {name: count_macs(run) for name, run in found.items()}
    clock = clock_of(torch.device(options.device))
    took = interleave(
        found, options.runs, lambda done: say(f"{model}: round {done} of {options.runs}"), clock, warm=True
    )
    common = {"model": model, "what": block.what, "tokens": block.tokens}
    return [{**common, "way": name, **_gain(name, took, macs), **took[name].to_dict()} for name in found]


def _gain(way: str, took: dict[str, Timing], macs: dict[str, int]) -> dict[str, float]:
    """Return how many times faster a way is, the bound of it by multiply-adds, and the part of the saving that is reached."""
    time, bound = took["dense"].median / took[way].median, macs["dense"] / macs[way]
    return {"faster": time, "bound": bound, "reached": (1 - 1 / time) / (1 - 1 / bound) if bound > 1 else 0.0}


def tables(result: Figures) -> list[Table]:
    """Return one table with all blocks.

    Args:
        result: of :func:`measure`.

    Example:
        >>> tables({"rows": []})[0].header[0]
        'model'
    """
    header = ("model", "picture", "tokens", "way", "ms, min / median", "times faster", "bound", "reached")
    title = f"One block at its real size, random weights, {result.get('dtype', 'float32')}"
    return [Table(title, header, tuple(_line(row) for row in result["rows"]))]


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    dense = row["way"] == "dense"
    gain = ("1", "1", "") if dense else (f"{row['faster']:.2f}", f"{row['bound']:.2f}", f"{row['reached']:.0%}")
    time = f"{row['min_ms']:.3g} / {row['median_ms']:.3g}"
    return (row["model"], row["what"], str(row["tokens"]), row["way"], time, *gain)
