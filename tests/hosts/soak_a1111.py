"""A soak test of the script in a real AUTOMATIC1111 web UI: many jobs with random settings, interrupts and exceptions.

After each job, a picture without Skipstone must equal, pixel by pixel, that of a web UI that never had the extension.

    WEBUI_PATH=... python tests/hosts/soak_a1111.py [--jobs 100] [--seed 0] [--without]

With --without, the same jobs run on a web UI that does not have the extension, to compare what the server holds.
What else it needs is said in `test_a1111.py`. Prints one line per job and the figures as JSON. Fails at the first difference.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import threading
import time
import urllib.error
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hosts.webui import Picture, WebUI, pixels, place

from skipstone.a1111_extension.table import TABLE

BASE = {"prompt": "a photo of a cat", "seed": 1, "steps": 6, "width": 128, "height": 128, "sampler_name": "Euler"}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
REQUESTS: list[dict[str, Any]] = [
    BASE,
    {**BASE, "sampler_name": "DPM++ 2M", "seed": 2},
    {**BASE, "sampler_name": "DDIM", "batch_size": 2},
    {**BASE, "width": 192, "sampler_name": "Euler a"},
]
"""Those of which a picture without Skipstone is compared after each job."""
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "Heun", "UniPC", "PLMS", "DDIM", "Restart", "LCM")
OPTIONS: list[dict[str, Any]] = [{}, {}, {}, {"batch_cond_uncond": False}, {"token_merging_ratio": 0.5}]
OPTIONS += [{"hypertile_enable_unet": True}, {"skipstone_cache": 1}]
METHODS: list[dict[str, Any]] = [
    {"level": "Gentle"},
    {"level": "Fast", "hires_pass": "own", "hires_level": "Gentle"},
    {"threshold": 1, "calls_speedup": 2.0},
    {"threshold": 0.5},
    {"threshold": 0.6, "rule": "deepcache", "every": 2},
    {"threshold": 1, "rule": "interval", "every": 3, "forecast": True},
    {"threshold": 1, "rule": "depths", "depths": "0 12 1 1"},
    {"threshold": 1, "dato": "custom", "ratio": 0.4, "dato_depths": "12 1 1 0"},
    {"threshold": 1, "dato": "dato_coco", "calls_every": 2},
]
WRONG: list[Any] = [None, "abc", -1, 1e9, [0.7], True, "", {"a": 1}]
EVENTS = ("none", "none", "interrupt", "skip", "exception")


LIVING = '''
import gc
import torch
from modules import script_callbacks

def count(_, app):
    """Adds an address that counts the tensors and Skipstone's own objects that live in this process."""
    def living():
        gc.collect()
        objects = gc.get_objects()
        held = [one.untyped_storage() for one in objects if issubclass(type(one), torch.Tensor)]
        storages = {storage.data_ptr(): storage.nbytes() / 2**20 for storage in held}
        ours = sum(str(type(one).__module__).startswith("_skipstone_webui") for one in objects)
        return {"tensors": len(storages), "MiB of tensors": sum(storages.values()), "ours": ours}
    app.add_api_route("/living", living, methods=["GET"])

script_callbacks.on_app_started(count)
'''


@dataclass
class Soak:
    """What was seen so far.

    Args:
        jobs: number of jobs.
        events: event -> number of jobs in which it was tried.
        raised: jobs that ended in an exception.
        accelerated: jobs whose infotext has results.
        refused: jobs whose infotext has a refusal.
        memory: MiB that the server held after each job.
        tensors: how many tensors lived in the server then.
        ours: how many objects of Skipstone's classes lived there.
    """

    jobs: int = 0
    events: Counter[str] = field(default_factory=Counter)
    raised: int = 0
    accelerated: int = 0
    refused: int = 0
    memory: list[float] = field(default_factory=list)
    tensors: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    def look(self, server: WebUI) -> str:
        """Note what the server holds. Return it as text."""
        living = server.get("/living")
        self.memory.append(memory_of(server))
        self.tensors.append(living["tensors"])
        self.ours.append(living["ours"])
        return f"{self.memory[-1]:.0f} MiB, " + ", ".join(f"{name} {value:.0f}" for name, value in living.items())

    def figures(self) -> dict[str, Any]:
        """For the documentation: of what the server held, the mean of each quarter of the jobs."""
        held = {name: quarters(getattr(self, name)) for name in ("memory", "tensors", "ours")}
        return {**vars(self), "events": dict(self.events), **held}


def quarters(values: list[float]) -> list[int]:
    """The mean of each quarter."""
    size = max(1, len(values) // 4)
    parts = [values[at : at + size] for at in range(0, len(values), size)][:4]
    return [round(sum(part) / len(part)) for part in parts]


def settings(random: Random) -> list[Any]:
    """Skipstone's arguments of one job: a method with some other fields at random, some of them at wrong values."""
    chosen = dict(random.choice(METHODS))
    for entry in random.sample(TABLE[1:], random.randint(0, 4)):
        if entry.name not in chosen:
            chosen[entry.name] = random.choice(WRONG) if random.random() < 0.05 else _value(random, entry)
    return [{"enabled": random.random() < 0.95, **chosen}]


def _value(random: Random, entry: Any) -> Any:
    if entry.choices:
        return random.choice(entry.choices)
    if isinstance(entry.default, bool):
        return random.random() < 0.5
    if isinstance(entry.default, str):
        return entry.default
    low, high = entry.field.usual or (entry.field.low, min(entry.field.high, 100))
    return random.randint(int(low), int(high)) if isinstance(entry.default, int) else random.uniform(low, high)


def request(random: Random) -> dict[str, Any]:
    """One job."""
    made: dict[str, Any] = {**BASE, "seed": random.randrange(1000), "sampler_name": random.choice(SAMPLERS)}
    made |= {"steps": random.randint(4, 20), "width": random.choice((128, 192)), "batch_size": random.choice((1, 1, 2))}
    made |= HIRES if random.random() < 0.2 else {}
    made |= {"n_iter": 2} if random.random() < 0.1 else {}
    refiner = os.environ.get("WEBUI_REFINER")
    return (
        {**made, "refiner_checkpoint": refiner, "refiner_switch_at": 0.5} if refiner and random.random() < 0.1 else made
    )


def run(server: WebUI, random: Random, seen: Soak, skipstone: bool) -> str:
    """One job with its event, with Skipstone's arguments or without. Return what became of it."""
    event, asked = random.choice(EVENTS), request(random)
    seen.jobs += 1
    seen.events[event] += 1
    call = random.randint(1, asked["steps"]) if event == "exception" else 0
    done: list[Picture] = []

    def generate() -> None:
        try:
            done.append(server.generate(asked, *(args if skipstone else ()), call=call))
        except urllib.error.HTTPError:
            seen.raised += 1

    args, changed = settings(random), random.choice(OPTIONS)
    changed = {name: value for name, value in changed.items() if skipstone or not name.startswith("skipstone")}
    with ExitStack() as stack:
        if changed:
            stack.enter_context(server.options(**changed))
        job = threading.Thread(target=generate)
        job.start()
        if event in ("interrupt", "skip"):
            time.sleep(random.uniform(0.0, 2.0))
            server.post(f"/sdapi/v1/{event}", {})
        job.join()
    infotext = done[0].infotext if done else ""
    seen.accelerated += bool(re.search(r"Skipstone (merged|pruned|blocks run|calls run): ", infotext))
    seen.refused += "Skipstone refused: " in infotext
    return f"{event}, {asked['sampler_name']} {asked['steps']}, {changed}, {args[0]}"


def memory_of(server: WebUI) -> float:
    """MiB that the server holds; 0 where the system does not say."""
    status = Path(f"/proc/{server.pid}/status")
    found = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else 0.0


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description="Soak test in a real AUTOMATIC1111 web UI")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without", action="store_true", help="the same jobs without the extension")
    asked, folder = parser.parse_args(), place()
    if folder is None:
        sys.exit("set WEBUI_PATH to the web UI's folder")
    seen, random = Soak(), Random(asked.seed)
    with tempfile.TemporaryDirectory() as plain, tempfile.TemporaryDirectory() as own:
        with WebUI(folder, Path(plain), skipstone=False) as server:
            never = [pixels(server.generate(one).pngs) for one in REQUESTS]
        with WebUI(folder, Path(own), skipstone=not asked.without, scripts={"living": LIVING}) as server:
            for _ in range(asked.jobs):
                what = run(server, random, seen, not asked.without)
                which = random.randrange(len(REQUESTS))
                off = pixels(server.generate(REQUESTS[which], *([] if asked.without else [False])).pngs)
                same = "equal" if off == never[which] else "DIFFERENT"
                print(f"{seen.jobs}: {what}: {same}, {seen.look(server)}", flush=True)
                if off != never[which]:
                    print(server.log()[-3000:])
                    return 1
    print(json.dumps({"equal": seen.jobs, **seen.figures()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
