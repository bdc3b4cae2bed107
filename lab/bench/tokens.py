"""`skipstone bench tokens`: the cost of merging, beside its peers, on one real SD1.5 transformer block.

Overhead is block time minus the *ideal* block's: the same block whose self-attention runs on the reduced tokens, prepared
beforehand. Random weights give no meaningful similarities, so the merged share is imposed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.errors import RecipeError
from ...core.measure.macs import count
from ...core.measure.timing import Timing, clock_of, interleave, machine, threads
from .figures import Figures, Files, Progress, publish
from .one_block import LATENT_FACTOR, hollow, make_inputs, new_block
from .overhead import overhead_costs
from .token_tables import TOKENS
from .token_ways import Way, absent_peers, check, dense, ways
from .unet import end_to_end

MOST_MERGED = 0.75
"""With cells of 2 x 2 a quarter of the tokens are destinations."""


@dataclass(frozen=True)
class TokenBench(Files):
    """Time token merging on one SD1.5 transformer block: dense, tomesd, ca-tome and Skipstone, interleaved.

    Example:
        >>> TokenBench(fractions=(0.9,)).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: fractions [0.9] must lie in (0, 0.75], for instance 0.5
    """

    sizes: tuple[int, ...] = (512, 768, 1024)
    """Picture sides in pixels."""
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Merged shares of the tokens, imposed."""
    runs: tuple[int, ...] = (30,)
    """Interleaved rounds: one number, or one per size."""
    threads: int = 1
    """torch threads."""
    end_to_end: tuple[int, ...] = ()
    """Picture sides at which a full-size SD1.5 U-Net runs as well (minutes each on a CPU)."""
    end_to_end_runs: int = 3
    """Rounds of each of these."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps. On CUDA times are taken by its events."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the block and of the U-Net."""
    out: Path = Path("out/bench_tokens.json")

    def check(self) -> None:
        """Raise :class:`RecipeError` for options that cannot be measured."""
        if any(size < 2 * LATENT_FACTOR or size % LATENT_FACTOR for size in (*self.sizes, *self.end_to_end)):
            raise RecipeError(f"sizes {list(self.sizes)} must be multiples of {LATENT_FACTOR} pixels, for instance 512")
        if not self.fractions or any(not 0 < f <= MOST_MERGED for f in self.fractions):
            raise RecipeError(f"fractions {list(self.fractions)} must lie in (0, {MOST_MERGED}], for instance 0.5")
        if len(self.runs) not in (1, len(self.sizes)) or min((*self.runs, self.end_to_end_runs, self.threads)) < 1:
            raise RecipeError(f"runs {list(self.runs)} must be one number from 1 on, or one for each of the sizes")


def run_token_bench(options: TokenBench, say: Progress = print, command: str = "") -> Figures:
    """Measure or load, then show, save and document.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for options, files or packages that cannot be used.

    Example:
        >>> run_token_bench(TokenBench(load=Path("no such file")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench tokens' ...
    """
    options.check()
    with threads(options.threads), torch.no_grad():
        return publish(TOKENS, options, lambda: measure(options, say, command), say)


def measure(options: TokenBench, say: Progress, command: str = "") -> Figures:
    """Measure all figures of the bench, with torch's present number of threads.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns plain values. Raises :class:`ModelError` if `ldm` is not installed.

    Example:
        >>> found = measure(TokenBench(sizes=(64,), fractions=(0.5,), runs=(1,)), print)  # doctest: +SKIP
        >>> found["blocks"][0]["merged"]  # doctest: +SKIP
        32
    """
    block = nn.Module.to(new_block(), options.device, getattr(torch, options.dtype))
    each = options.runs * len(options.sizes) if len(options.runs) == 1 else options.runs
    result: Figures = {"command": command, "machine": machine(options.device), "absent": absent_peers(), "blocks": []}
    for size, runs in zip(options.sizes, each, strict=True):
        result["blocks"] += _measure_size(block, size, options.fractions, runs, say)
    result["wrapper"] = overhead_costs()
    result["dtype"] = options.dtype
    result["end_to_end"] = [
        end_to_end(size, options.end_to_end_runs, say, options.device, getattr(torch, options.dtype))
        for size in options.end_to_end
    ]
    return result


def _measure_size(
    block: nn.Module, size: int, fractions: tuple[float, ...], runs: int, say: Progress
) -> list[dict[str, Any]]:
    """One size at all fractions, in the same rounds; one result per fraction."""
    inputs = make_inputs(size, like=next(block.parameters()))
    clock = clock_of(inputs.x.device)
    merged = {fraction: round(inputs.count * fraction) for fraction in fractions}
    full = {f: ways(block, inputs, m) for f, m in merged.items()}
    differ = {f: check(found, merged[f], inputs) for f, found in full.items()}
    bare = {f: ways(hollow(block), inputs, m) for f, m in merged.items()}
    plain = count(dense(block, inputs)).ops
    heading = f"{size} px, {inputs.count} tokens"
    took = interleave(
        {"dense": dense(block, inputs), **_cases(full)},
        runs,
        lambda done: say(f"{heading}: round {done} of {runs}"),
        clock,
    )
    alone = interleave(_cases(bare), runs, clock=clock)
    return [
        {
            "size": size,
            "tokens": inputs.count,
            "fraction": f,
            "merged": merged[f],
            "runs": runs,
            "largest_difference": differ[f],
            "rows": _rows(found, f, took, alone, plain),
        }
        for f, found in full.items()
    ]


def _cases(found: dict[float, list[Way]]) -> dict[str, Callable[[], Tensor]]:
    return {f"{v.name} {f}": v.run for f, some in found.items() for v in some}


def _rows(
    found: list[Way], fraction: float, took: dict[str, Timing], alone: dict[str, Timing], plain: int
) -> list[dict[str, Any]]:
    """The dense block, the ideal one, and each way with its overhead in milliseconds.

    overhead_*: whole block against ideal block. merging_ms: the same on hollow blocks, where no attention drowns it.
    more_ops: operations beyond `plain`, those of the dense block.
    """
    ideal, bare = took[f"ideal {fraction}"], alone[f"ideal {fraction}"]
    rows = [{"name": "dense", "calls": "dense", **took["dense"].to_dict()}]
    for way in found:
        time, merging = took[f"{way.name} {fraction}"], alone[f"{way.name} {fraction}"]
        row = {"name": way.name, "calls": way.calls, **time.to_dict()}
        if way.calls != "ideal":
            row["overhead_min_ms"] = (time.minimum - ideal.minimum) * 1e3
            row["overhead_median_ms"] = time.over(ideal) * 1e3
            row["merging_ms"] = (merging.minimum - bare.minimum) * 1e3
            row["more_ops"] = count(way.run).ops - plain
        rows.append(row)
    return rows
