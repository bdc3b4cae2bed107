"""Many runs on the same pipelines, with errors, Ctrl-C and removals between them, each compared with a process that had none.

    python tests/reliability/soak.py --runs 500

Every run draws a random kind of pipeline with a random sampler, size, batch, precision and method; half of the runs are first
disturbed. Then the accelerated picture and the unaccelerated one must be, bit by bit, those of a process in which nothing was
accelerated before. Pipelines stay alive over the whole soak; each of the others is forked before its first run.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import logging
import multiprocessing
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests")]

import tiny  # noqa: E402
import torch  # noqa: E402
from interrupts import interrupted  # noqa: E402

import pipelines  # noqa: E402
import skipstone  # noqa: E402
from skipstone.core.recipe.auto import Auto  # noqa: E402
from skipstone.core.recipe.block_skip import BlockSkip  # noqa: E402
from skipstone.core.recipe.call_skip import CallSkip  # noqa: E402
from skipstone.core.recipe.recipe import Recipe  # noqa: E402
from skipstone.core.recipe.token_merge import TokenMerge  # noqa: E402
from skipstone.core.recipe.token_prune import TokenPrune  # noqa: E402

KINDS: dict[str, Callable[[], pipelines.Running]] = {
    name: getattr(pipelines, name)
    for name in (
        "text_to_image", "image_to_image", "controlnet", "perturbed_attention", "self_attention_guidance", "sdxl", "dit",
        "pixart_alpha", "sd3", "flux", "chroma", "qwen_image", "z_image", "lumina2", "wan", "ltx", "hunyuan_video",
    )
}  # fmt: skip
SAMPLERS = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler")
RESAMPLED = ("text_to_image", "image_to_image", "controlnet", "sdxl", "pixart_alpha")
"""Kinds that take these samplers."""
SIZED = ("text_to_image", "sdxl")
"""Kinds that take any size."""
EVENTS = ("none", "none", "none", "none", "error", "ctrl-c", "ctrl-c", "removed by a thread")
FILES = {
    str(path) for house in ("core", "pipelines") for path in (Path(skipstone.__file__).parent / house).rglob("*.py")
}
MOST_LINES = 4000


@dataclass(frozen=True)
class Plan:
    """One run."""

    kind: str
    sampler: str
    side: int
    steps: int
    half: bool
    recipe: str
    event: str
    at: int


def planned(rng: random.Random) -> Plan:
    """A random run."""
    kind = rng.choice(list(KINDS))
    return Plan(
        kind,
        rng.choice(SAMPLERS) if kind in RESAMPLED else "",
        rng.choice((64, 96, 128)) if kind in SIZED else 0,
        rng.randint(4, 14),
        rng.random() < 0.25,
        recipe(rng).to_json(),
        rng.choice(EVENTS),
        rng.randrange(MOST_LINES),
    )


def recipe(rng: random.Random) -> Recipe:
    """One method, or two that go together."""
    tokens = (
        lambda: TokenMerge(rng.uniform(-0.5, 0.9), matching=rng.choice(("dense", "local")), bucket=1),
        lambda: TokenPrune(ratio=rng.choice((0.25, 0.5, 0.7))),
    )
    skips = (
        lambda: BlockSkip(rule="interval", every=rng.randint(2, 4), forecast=rng.random() < 0.5),
        lambda: CallSkip(every=rng.randint(2, 4)),
        lambda: CallSkip(speedup=rng.choice((1.5, 2.0))),
        lambda: Auto(speedup=rng.choice((1.3, 1.8, 2.5))),
    )
    parts = rng.choice(((tokens,), (skips,), (tokens, skips)))
    return Recipe.of([rng.choice(part)() for part in parts])


class Session:
    """A process's pipelines."""

    def __init__(self) -> None:
        """Nothing is built yet."""
        self._running: dict[tuple[str, bool], pipelines.Running] = {}

    def run(self, plan: Plan, disturb: bool) -> dict[str, Any]:
        """Digests of the accelerated and of the unaccelerated picture, and what an event did."""
        running = self._running.setdefault((plan.kind, plan.half), build(plan))
        if plan.sampler:
            running.pipe.scheduler = tiny.make_scheduler(plan.sampler)
        happened = disturbed(running, plan) if disturb and plan.event != "none" else ""
        with skipstone.accelerate(running.pipe, Recipe.from_json(plan.recipe)):
            fast = digest(drawn(running, plan))
        plain = digest(drawn(running, plan))
        left = [*tiny.hooked(running.network), *tiny.overridden(running.network)]
        return {"fast": fast, "plain": plain, "happened": happened, "left": [str(one) for one in left]}


def build(plan: Plan) -> pipelines.Running:
    """A pipeline, in half precision where the plan says so and it can."""
    running = KINDS[plan.kind]()
    if plan.half:
        running.pipe.to(torch.bfloat16)
        running.arguments = {key: halved(value) for key, value in running.arguments.items()}
    return running


def halved(value: Any) -> Any:
    """A floating tensor in bfloat16; other things as they are."""
    return value.bfloat16() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def drawn(running: pipelines.Running, plan: Plan) -> torch.Tensor:
    """One picture."""
    size = {"height": plan.side, "width": plan.side} if plan.side else {}
    return running(steps=plan.steps, **size)


def digest(picture: torch.Tensor) -> str:
    """Equal for equal bits."""
    return hashlib.sha256(picture.detach().float().numpy().tobytes()).hexdigest()[:16]


def disturbed(running: pipelines.Running, plan: Plan) -> str:
    """Accelerate, and let something happen in mid-run. Returns what did."""
    handle = skipstone.accelerate(running.pipe, Recipe.from_json(plan.recipe))
    try:
        if plan.event == "ctrl-c":
            stopped = interrupted(lambda: drawn(running, plan), plan.at, FILES)
            return "ctrl-c" if stopped else "the run ended first"
        if plan.event == "error":
            return failed(running, plan)
        thread = threading.Timer(plan.at % 50 / 1000, handle.remove)
        thread.start()
        drawn(running, plan)
        thread.join()
        return "removed by a thread"
    finally:
        handle.remove()


def failed(running: pipelines.Running, plan: Plan) -> str:
    """An error of the network's own in the forward of a random module."""
    modules = [m for m in running.network.modules() if not list(m.children())]
    left = [plan.at % 4]

    def fails(*_: Any) -> None:
        if left[0] == 0:
            raise RuntimeError("an error of the network")
        left[0] -= 1

    hook = modules[plan.at % len(modules)].register_forward_pre_hook(fails)
    try:
        drawn(running, plan)
    except RuntimeError:
        return "error"
    finally:
        hook.remove()
    return "the run ended first"


def fresh(plan: Plan) -> dict[str, Any]:
    """The same run in a process that is forked for it."""
    reader, writer = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        try:
            writer.send(Session().run(plan, disturb=False))
        except Exception as error:
            writer.send({"failed": f"{type(error).__name__}: {error}"})

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    found = reader.recv()
    process.join()
    return found


def resident() -> int:
    """MiB of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else 0
    return pages * 4096 >> 20


def soak(runs: int, seed: int, out: Path | None = None) -> dict[str, Any]:
    """Run, compare, and count.

    Args:
        runs: how many.
        seed: of their choice.
        out: a JSON file for the figures, written after every run.
    """
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rng, session, begun = random.Random(seed), Session(), time.time()
    faults, events, memory = [], dict[str, int](), []
    for number in range(runs):
        plan = planned(rng)
        wanted = fresh(plan)
        try:
            found = session.run(plan, disturb=True)
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"}
        happened = found.pop("happened", "") or "undisturbed"
        events[happened] = events.get(happened, 0) + 1
        wanted.pop("happened", None)
        if found != wanted or found.get("left"):
            faults.append({"number": number, "plan": asdict(plan), "found": found, "wanted": wanted})
            print(json.dumps(faults[-1]), flush=True)
        if number % 20 == 19 or number == runs - 1:
            gc.collect()
            tensors = sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())
            memory.append({"run": number + 1, "MiB": resident(), "tensors": tensors})
            print(f"{number + 1} of {runs} runs, {len(faults)} differ, {memory[-1]['MiB']} MiB", flush=True)
        result = {"runs": number + 1, "seed": seed, "events": events, "faults": faults, "memory": memory,
                  "seconds": round(time.time() - begun)}  # fmt: skip
        if out:
            out.write_text(json.dumps(result, indent=1))
    return result


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    result = soak(options.runs, options.seed, options.out)
    print(json.dumps({key: result[key] for key in ("runs", "events", "seconds")}))
    return bool(result["faults"])


if __name__ == "__main__":
    sys.exit(main())
