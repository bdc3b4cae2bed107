"""Training, search and profile under kill -9, a full disk and broken files.

    python tests/reliability/faults.py --times 20

Each command runs on a small diffusers folder, in a process of its own. Killed somewhere and started again, it must end with the
result of an undisturbed run (a search with as many trials). On a full disk, and with a broken file of its own, it must end with
exit code 2 and one line, or with that result; nothing half written may remain.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests")]

import model_folders  # noqa: E402
import torch  # noqa: E402

from skipstone.cli.main import main as skipstone  # noqa: E402
from skipstone.core.forecast.profile import Profile  # noqa: E402
from skipstone.core.recipe.mask import Mask  # noqa: E402

LONGEST = 500


@dataclass
class Job:
    """One command.

    Args:
        name: in the figures.
        words: of the command line, without the model.
        again: words that are added when it goes on.
        result: what it made in its folder, as plain values.
    """

    name: str
    words: list[str]
    again: list[str]
    result: Callable[[Path], Any]


def jobs() -> list[Job]:
    """All of them, small."""
    train = "train-mask MODEL --steps 6 --passes 5 --tries 4 --refine-batch 4 --profile-batch 2 --target 0.6 --guidance 1 --out OUT"
    search = "search MODEL --steps 6 --trials 10 --population 4 --pictures 2 --check 0 --guidance 1 --out OUT"
    profile = "profile MODEL --steps 10 --samples 2 --choosing 2 --promised 10 --speedups 2 --guidance 1 --out OUT/p.safetensors"
    return [
        Job("train-mask", train.split(), ["--resume"], lambda out: Mask.load(out / "mask.safetensors").run.tolist()),
        Job("search", search.split(), [], lambda out: _trials(out / "search.json")),
        Job("profile", profile.split(), [], lambda out: Profile.load(out / "p.safetensors").gram.round(6).tolist()),
    ]


def _trials(path: Path) -> int:
    """How many trials a search made. A trial that was killed counts as another worker's, so that its values are not tried again."""
    return len(json.loads(path.read_text(encoding="utf-8"))["tried"])


@dataclass
class Outcome:
    """How a process ended.

    Args:
        code: its exit code; negative for a signal.
        said: what it wrote to stderr.
        seconds: how long it ran.
    """

    code: int
    said: str
    seconds: float


def run(words: list[str], kill_after: float | None = None, disk: int | None = None) -> Outcome:
    """Run a command in a forked process.

    Args:
        words: of the command line.
        kill_after: seconds after which it is killed.
        disk: bytes that a file may have.
    """
    begun, (reader, writer) = time.time(), os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        _child(words, disk)
    os.close(writer)
    if kill_after is not None:
        threading.Timer(kill_after, _kill, [child]).start()
    with open(reader, errors="replace") as output:
        said = output.read()
    _, status = os.waitpid(child, 0)
    return Outcome(os.waitstatus_to_exitcode(status), said, time.time() - begun)


def _child(words: list[str], disk: int | None) -> NoReturn:
    if disk is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (disk, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    code = 70
    try:
        code = skipstone(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


class Trial:
    """A job's runs in folders of its own."""

    def __init__(self, job: Job, model: Path, base: Path) -> None:
        """Run it undisturbed."""
        self.job, self._model, self._base, self._count = job, model, base, 0
        out = self.folder()
        self.plain = self.start(out)
        assert self.plain.code == 0, (self.plain.code, self.plain.said[-500:])
        self.wanted = job.result(out)

    def folder(self) -> Path:
        """A new folder."""
        self._count += 1
        path = self._base / f"{self.job.name}{self._count}"
        path.mkdir()
        return path

    def start(self, out: Path, again: bool = False, **how: Any) -> Outcome:
        """Run the command."""
        names = {"MODEL": str(self._model), "OUT": str(out)}
        words = [
            name.replace("OUT", str(out)) if name.startswith("OUT") else names.get(name, name)
            for name in self.job.words
        ]
        return run([*words, *(self.job.again if again else [])], **how)

    def same(self, out: Path, outcome: Outcome) -> str:
        """ "" for the result of the undisturbed run, else what is wrong."""
        if outcome.code:
            return f"exit code {outcome.code}: {outcome.said[-300:]}"
        return "" if self.job.result(out) == self.wanted else "another result"

    def killed(self, rng: random.Random) -> str:
        """Kill it somewhere, and start it again."""
        out = self.folder()
        first = self.start(out, kill_after=rng.uniform(0, self.plain.seconds))
        if first.code == 0:
            return self.same(out, first)
        again = self.job.name != "train-mask" or any(out.glob("*training*"))
        return self.same(out, self.start(out, again=again))

    def on_a_full_disk(self, rng: random.Random) -> str:
        """Limit the size of its files, then start it again on a disk with room."""
        out = self.folder()
        first = self.start(out, disk=int(10 ** rng.uniform(2.5, 4.5)))
        if first.code == 0:
            return self.same(out, first)
        if wrong := refused(first):
            return wrong
        if left := [path.name for path in out.rglob(".skipstone-*")]:
            return f"left {left}"
        again = self.job.name != "train-mask" or any(out.glob("*training*"))
        return self.same(out, self.start(out, again=again))

    def with_a_broken_file(self, rng: random.Random) -> str:
        """Break one of the files of a finished run, and start it again."""
        out = self.folder()
        self.start(out)
        files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.suffix not in (".png", ".jpg")]
        broken = rng.choice(files)
        content = broken.read_bytes()
        at = rng.randrange(len(content) + 1)
        broken.write_bytes(rng.choice((content[:at], b"", content[:at] + rng.randbytes(8) + content[at + 8 :])))
        outcome = self.start(out, again=True)
        return "" if outcome.code == 0 else refused(outcome)


def refused(outcome: Outcome) -> str:
    """ "" for exit code 2 and one line of an error, else what is wrong."""
    lines = [line for line in outcome.said.splitlines() if line.strip()]
    if outcome.code != 2 or "Traceback" in outcome.said:
        return f"exit code {outcome.code}: {outcome.said[-400:]}"
    return "" if lines and len(lines[-1]) < LONGEST else f"said {outcome.said[-400:]!r}"


def try_all(times: int, seed: int) -> dict[str, Any]:
    """Disturb every command in every way.

    Args:
        times: how often in each way.
        seed: of what happens when.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rng, counts, faults = random.Random(seed), dict[str, int](), []
    with tempfile.TemporaryDirectory() as base:
        model = model_folders.save("dit", Path(base) / "model")
        for job in jobs():
            trial = Trial(job, model, Path(base))
            for way in (trial.killed, trial.on_a_full_disk, trial.with_a_broken_file):
                name = f"{job.name} {way.__name__.replace('_', ' ')}"
                for number in range(times):
                    if wrong := way(rng):
                        faults.append({"what": name, "number": number, "fault": wrong})
                        print(json.dumps(faults[-1], indent=1), flush=True)
                    for path in Path(base).glob(f"{job.name}[0-9]*"):
                        shutil.rmtree(path)
                counts[name] = times
                print(f"{name}: {times} times", flush=True)
    return {"counts": counts, "faults": faults}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.time()
    result = try_all(options.times, options.seed)
    total = sum(result["counts"].values())
    print(f"{total} disturbed runs, {len(result['faults'])} faults, {time.time() - begun:.0f} s")
    return bool(result["faults"])


if __name__ == "__main__":
    sys.exit(main())
