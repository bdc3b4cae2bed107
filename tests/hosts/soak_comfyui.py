"""Many random prompts in one real ComfyUI: pictures as a fresh server's, and nothing that grows.

    COMFYUI_PATH=... PYTHONPATH=tests python -m hosts.soak_comfyui --prompts 200 --seed 0

Needs what test_comfyui.py needs, and Linux. Exits with 1 if a picture differs, a run fails, a mark stays on a network, or memory
or objects grow.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from hosts.comfyui import ComfyUI, Result, places
from hosts.soak_jobs import METHODS, MODELS, Job, job, plain

EVERY = 10
"""Prompts between two looks at what the process holds."""
GROWTH = {"resident": 32.0, "tensor_memory": 4.0, "objects": 4000.0, "tensors": 100.0}
"""What the second half may hold more than the quarter before it, as medians: MiB and numbers. ComfyUI keeps the last nodes'
outputs, so that a look depends on the last prompts."""


@dataclass(frozen=True)
class Drawn:
    """A prompt and how it ended. digest: the picture's fingerprint, empty if it was cancelled or failed."""

    job: Job
    result: Result
    cancelled: bool

    @property
    def digest(self) -> str:
        return self.result.outputs.get("digest", "") if self.result.status == "success" else ""


def draw(host: ComfyUI, job: Job, seconds: float) -> Drawn:
    """Run one prompt. seconds: what such a run takes, of which Cancel waits a part."""
    answer = host.queue(job.prompt)
    if "prompt_id" not in answer:
        return Drawn(job, Result("rejected", {}, {}, answer), False)
    if job.cancel is not None:
        time.sleep(job.cancel * seconds)
        host.cancel()
    result = host.result(answer["prompt_id"])
    interrupted = result.status == "error" and result.detail[0] == "execution_interrupted"
    return Drawn(job, result, interrupted)


def known(host: ComfyUI) -> list[str]:
    """The models that this ComfyUI can draw by itself: older ones do not know all of them."""
    found = [model for model in MODELS if draw(host, plain(model), 0.0).digest]
    print(
        f"{host.name} does not draw {', '.join(set(MODELS) - set(found)) or 'none of the models'} by itself", flush=True
    )
    return found


def soak(host: ComfyUI, jobs: Sequence[Job]) -> tuple[list[Drawn], list[dict[str, Any]]]:
    """All prompts one after the other, and what the process holds every :data:`EVERY` prompts."""
    drawn, held, seconds = [], [look(host, 0)], 3.0
    for number, one in enumerate(jobs, 1):
        began = time.monotonic()
        drawn.append(draw(host, one, seconds))
        seconds = 0.8 * seconds + 0.2 * (time.monotonic() - began)
        if number % EVERY == 0 or number == len(jobs):
            held.append(look(host, number))
    return drawn, held


def look(host: ComfyUI, prompts: int) -> dict[str, Any]:
    """What the process holds after so many prompts, without ComfyUI's history of them."""
    host.post("/history", {"clear": True})
    found = {"prompts": prompts, **json.loads(host.get("/probe/state"))}
    print(found, flush=True)
    return found


def differing(server: Any, drawn: Sequence[Drawn], servers: int) -> list[Drawn]:
    """Those of the pictures that a fresh server draws otherwise. Each server draws some of them, in another order."""
    wrong = []
    for first in range(servers):
        with server(f"fresh{first}") as host:
            for one in reversed(drawn[first::servers]):
                again = draw(host, Job(one.job.model, one.job.method, one.job.prompt, None), 0.0)
                if again.digest != one.digest:
                    wrong.append(one)
    return wrong


def growth(held: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How much more the last half of the run holds than the quarter before it."""
    quarter, half = held[len(held) // 4 : len(held) // 2], held[len(held) // 2 :]
    return {name: median(one[name] for one in half) - median(one[name] for one in quarter or half) for name in GROWTH}


def chosen(drawn: Sequence[Drawn], count: int, random: Random) -> list[Drawn]:
    """Every picture that must be plain, and some of the accelerated ones."""
    done = [one for one in drawn if one.digest]
    fast = [one for one in done if not one.job.plain]
    sample = random.sample(fast, min(count, len(fast)))
    return [one for one in done if one.job.plain or one in sample]


def faults(drawn: Sequence[Drawn], wrong: Sequence[Drawn], held: Sequence[dict[str, Any]]) -> list[str]:
    """What must not be."""
    failed = [one for one in drawn if one.result.status != "success" and not one.cancelled]
    errors = [one for one in drawn if any("error in Skipstone" in text for text in one.result.texts.values())]
    grown = [f"{name} grew by {more:.0f}" for name, more in growth(held).items() if more > GROWTH[name]]
    marks = [f"{held[-1]['marks']} marks on networks"] if held[-1]["marks"] else []
    told = [f"{why}: {one.job}: {one.result.detail}: {one.result.texts}"
            for why, some in (("failed", failed), ("our error", errors), ("differs", wrong)) for one in some]  # fmt: skip
    return [*told, *grown, *marks]


def summary(drawn: Sequence[Drawn], compared: Sequence[Drawn], held: Sequence[dict[str, Any]]) -> str:
    """What was done, for docs/reliability.md."""
    methods = Counter(one.job.method for one in drawn)
    rows = "\n".join(
        f"| {one['prompts']} | {one['resident']:.0f} | {one['tensor_memory']:.1f} | {one['objects']} | {sum(one['own'].values())} |"
        for one in held
    )
    return (
        f"{len(drawn)} prompts, {sum(one.cancelled for one in drawn)} cancelled; "
        + ", ".join(f"{methods[name]} {name}" for name in METHODS if methods[name])
        + f"\ncompared with fresh servers: {len(compared)}, of them {sum(one.job.plain for one in compared)} plain"
        + f"\ngrowth of the last half: { ({name: round(more, 1) for name, more in growth(held).items()}) }"
        + "\n| prompts | resident MiB | tensors MiB | objects | ours |\n|---|---|---|---|---|\n"
        + rows
    )


def options() -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", type=int, default=30, help="accelerated pictures that fresh servers draw again")
    parser.add_argument("--servers", type=int, default=3, help="fresh servers")
    return parser.parse_args()


def main() -> int:
    """Run the soak in the first ComfyUI of COMFYUI_PATH."""
    chosen_options, random = options(), Random(options().seed)
    with tempfile.TemporaryDirectory() as folder:

        def server(name: str) -> ComfyUI:
            return ComfyUI(places()[0], Path(folder) / name, flags="")

        with server("first") as host:
            models = known(host)
        jobs = [job(random, models) for _ in range(chosen_options.prompts)]
        with server("soak") as host:
            print(f"{host.name}, seed {chosen_options.seed}", flush=True)
            drawn, held = soak(host, jobs)
        compared = chosen(drawn, chosen_options.sample, random)
        wrong = differing(server, compared, chosen_options.servers)
    print(summary(drawn, compared, held))
    found = faults(drawn, wrong, held)
    print("\n".join(found) or "no fault")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
