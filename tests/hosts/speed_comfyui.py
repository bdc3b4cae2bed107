"""Seconds and memory of whole runs in a real ComfyUI, on networks of the real sizes with random weights.

    COMFYUI_PATH=... COMFYUI_ARGS= PYTHONPATH=tests python -m hosts.speed_comfyui --out speed.json

Needs what test_comfyui.py needs, and a GPU; `--small` is for a look on the CPU. Each method has one run before the clock,
in which its memory is read, and then all take turns. Exits with 1 if Skipstone that is off changes a picture.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from hosts.comfy_prompts import node, patched
from hosts.comfyui import ComfyUI, Prompt, Result, places

MODELS = {"SD1.5": (512, 77, 5.0), "SDXL": (1024, 77, 5.0), "Flux": (1024, 256, 1.0)}
"""Kind -> pixels of a side, tokens of text, guidance."""
SPEEDUPS = (1.5, 2.0, 3.0)
EASYCACHE = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
"""The widgets as the node comes."""
MEMORY = ("allocated", "reserved", "device")
"""MiB: peaks of torch's allocator, and what is taken of the whole device after the run."""


@dataclass
class Row:
    """One method on one model. ran: steps at which the network ran. memory: MiB. digest: the picture's fingerprint."""

    name: str
    change: Callable[[Prompt], Prompt]
    steps: int
    ran: int = 0
    memory: dict[str, float] = field(default_factory=dict)
    digest: str = ""
    seconds: list[float] = field(default_factory=list)

    @property
    def told(self) -> dict[str, Any]:
        """For the file."""
        return {name: getattr(self, name) for name in ("name", "steps", "ran", "memory", "digest", "seconds")}


def plain(kind: str, small: bool) -> Prompt:
    """A run without us."""
    pixels, tokens, guidance = MODELS[kind]
    conds = {name: node("ProbeConditioning", kind=kind, tokens=tokens, rng=rng)
             for rng, name in enumerate(("positive", "negative"))}  # fmt: skip
    side = 128 if small else pixels
    latent = "EmptySD3LatentImage" if kind == "Flux" else "EmptyLatentImage"
    sampling = {"seed": 1, "cfg": guidance, "sampler_name": "euler", "scheduler": "normal"}
    inputs = {
        "model": ["model", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["empty", 0],
    }
    return {
        "model": node("ProbeFull", kind=kind, small=small),
        **conds,
        "empty": node(latent, width=side, height=side, batch_size=1),
        "sampler": node("ProbeTimed", **inputs, **sampling),
        "digest": node("ProbeDigest", samples=["sampler", 0]),
        "leftovers": node("ProbeLeftovers", model=["model", 0], samples=["sampler", 0]),
    }


def faster(prompt: Prompt, speedup: float) -> Prompt:
    """With the Skipstone node; a speed-up of 1 is off."""
    return patched(prompt, "SkipstoneAuto", "auto", level="custom", speedup=speedup)


def masked(prompt: Prompt, rule: str) -> Prompt:
    """With a Block Mask that leaves out blocks at every second call."""
    rules = {"rule": node("SkipstoneMaskRule", rule=rule, every=2)}
    return {**rules, **patched(prompt, "SkipstoneBlockMask", "mask", mask=["rule", 0])}


def methods(kind: str, steps: int) -> list[Row]:
    """What is compared, but for fewer steps, whose number the others tell."""
    auto = [Row(f"Skipstone {one:g}x", partial(faster, speedup=one), steps) for one in SPEEDUPS]
    rule = "interval" if kind == "Flux" else "deepcache"
    return [
        Row("dense", lambda prompt: prompt, steps),
        Row("Skipstone off", partial(faster, speedup=1.0), steps),
        *auto,
        Row(f"Block Mask, {rule} 2", partial(masked, rule=rule), steps),
        Row("EasyCache", lambda prompt: patched(prompt, "EasyCache", "other", **EASYCACHE), steps),
    ]


def draw(host: ComfyUI, row: Row, prompt: Prompt, clean: bool) -> tuple[dict[str, float], Result, str]:
    """One run: its seconds and memory, what came of it, and what the server wrote meanwhile."""
    made = row.change(prompt)
    inputs = {**made["sampler"]["inputs"], "steps": row.steps, "clean": clean}
    before = len(host.log())
    result = host.run({**made, "sampler": {**made["sampler"], "inputs": inputs}})
    if result.status != "success" or result.outputs["leftovers"] or result.outputs["digest"] == "not finite":
        raise RuntimeError(f"{row.name}: {result.detail}: {result.outputs}: {result.texts}")
    return json.loads(result.outputs["sampler"]), result, host.log()[before:]


def first(host: ComfyUI, row: Row, prompt: Prompt) -> None:
    """The run before the clock."""
    told, result, log = draw(host, row, prompt, clean=True)
    row.memory = {name: value for name, value in told.items() if name != "seconds"}
    row.digest, row.ran = result.outputs["digest"], row.steps
    if found := re.search(r"ran (\d+) of \d+ calls", result.report("auto")):
        row.ran = int(found[1])
    if found := re.search(r"EasyCache - skipped (\d+)/", log):
        row.ran = row.steps - int(found[1])
    print(f"  {row.name}: {told['seconds']:.2f} s, {row.ran} of {row.steps} steps; {result.texts}", flush=True)


def measure(host: ComfyUI, kind: str, options: Namespace) -> list[Row]:
    """All methods on one model, in turns, until the time is up."""
    prompt, rows = plain(kind, options.small), methods(kind, options.steps)
    draw(host, rows[0], prompt, clean=False)  # loads the network
    for row in rows:
        first(host, row, prompt)
    fewer = sorted({row.ran for row in rows if row.name.startswith("Skipstone") and row.ran < row.steps}, reverse=True)
    for steps in fewer:
        rows.append(Row(f"{steps} steps", rows[0].change, steps))
        first(host, rows[-1], prompt)
    began = time.monotonic()
    for number in range(options.rounds):
        if number >= 2 and time.monotonic() - began > options.seconds:
            break
        for row in rows:
            row.seconds.append(draw(host, row, prompt, clean=False)[0]["seconds"])
    return rows


def overhead(rows: list[Row]) -> dict[str, float]:
    """Seconds of a skipped step: what a run takes longer than one of as many steps as ran, for each step that it left out."""
    alone = {row.steps: median(row.seconds) for row in rows if row.name.endswith(" steps")}
    return {
        row.name: (median(row.seconds) - alone[row.ran]) / (row.steps - row.ran)
        for row in rows
        if row.name.startswith("Skipstone") and row.ran < row.steps
    }


def table(kind: str, rows: list[Row]) -> str:
    """For a reader."""
    dense, extra = rows[0], overhead(rows)
    lines = [f"{kind}, {len(dense.seconds)} rounds", "| | steps | s | least, most | faster | MiB allocated | reserved | device "
             "| ms of a skipped step | as dense |", "|---|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        s, more = median(row.seconds), extra.get(row.name)
        memory = [f"{row.memory[name]:.0f}" if name in row.memory else "" for name in MEMORY]
        cells = [row.name, f"{row.ran} of {row.steps}", f"{s:.3f}", f"{min(row.seconds):.3f}, {max(row.seconds):.3f}",
                 f"{median(dense.seconds) / s:.2f}x", *memory, "" if more is None else f"{1000 * more:.2f}",
                 "equal" if row.digest == dense.digest else ""]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def options() -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="after which no third or later round of a model begins"
    )
    parser.add_argument("--small", action="store_true", help="small networks and pictures")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args()


def main() -> int:
    """Measure in the first ComfyUI of COMFYUI_PATH."""
    chosen, told, changed = options(), {}, False
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyUI(places()[0], Path(folder) / "speed", flags="--cache-none") as host,
    ):
        device = json.loads(host.get("/system_stats"))["devices"][0]["name"]
        print(f"{host.name}, {device}", flush=True)
        for kind in chosen.models:
            rows = measure(host, kind, chosen)
            print(table(kind, rows), flush=True)
            changed |= rows[1].digest != rows[0].digest
            told[kind] = [row.told for row in rows]
            if chosen.out:
                chosen.out.write_text(json.dumps({"host": host.name, "device": device, "models": told}, indent=1))
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
