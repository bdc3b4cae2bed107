"""Draws the pictures of an experiment into folders, in batches that take turns among the rows. A stopped run goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ...core.errors import RecipeError
from ...core.files import make_folder, whole_file, write_json
from ...core.measure.timing import wait
from ...pipelines.accelerate import accelerate
from ...pipelines.loading import draw_batch
from .protocols import TOMESD, Row

_TIMES = "times-{}.jsonl"


@dataclass(frozen=True)
class Shard:
    """This process among those of `accelerate launch`.

    Args:
        index: number of the process.
        count: of processes.
        device: of this one; "" for the one that was asked for.

    Example:
        >>> Shard(index=1, count=2).mine([10, 11, 12])
        [11]
    """

    index: int = 0
    count: int = 1
    device: str = ""

    def mine(self, items: Sequence[Any]) -> list[Any]:
        """Return this process's share of some items."""
        return list(items[self.index :: self.count])

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def this_shard(cpu: bool) -> Shard:
    """Return what `accelerate launch` made of this process; the only one without it.

    Args:
        cpu: use no accelerator.

    Example:
        >>> this_shard(cpu=True).count
        1
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return Shard()
    from accelerate import PartialState

    state = PartialState(cpu=cpu)
    return Shard(state.process_index, state.num_processes, str(state.device))


@dataclass(frozen=True)
class Job:
    """What is drawn.

    Args:
        pipe: a diffusers pipeline.
        folder: a folder for each row comes here.
        prompts: one per picture.
        seed: of the first picture; picture i has seed + i.
        steps: of the sampler, where a row has no number of its own.
        guidance: scale; the pipeline's own if None.
        size: side in pixels; the pipeline's own if None.
        batch: pictures at a time.

    Example:
        >>> Job(pipe=None, folder=Path("out"), prompts=("a", "b", "c"), batch=2).batches()
        [[0, 1], [2]]
    """

    pipe: Any
    folder: Path
    prompts: tuple[str, ...]
    seed: int = 0
    steps: int = 50
    guidance: float | None = None
    size: int | None = None
    batch: int = 4

    def batches(self) -> list[list[int]]:
        """Return the numbers of the pictures of each batch."""
        numbers = range(len(self.prompts))
        return [list(numbers[at : at + self.batch]) for at in range(0, len(numbers), self.batch)]

    def path(self, row: Row, number: int) -> Path:
        """Return the file of a picture.

        Args:
            row: the way.
            number: of the picture.
        """
        return folder_of(self.folder, row) / f"{number:06d}.png"


def folder_of(folder: Path, row: Row) -> Path:
    """Return the folder of a row's pictures.

    Args:
        folder: of the experiment.
        row: the way.

    Example:
        >>> folder_of(Path("out"), Row("0.7, config_3")).name
        '0.7_config_3'
    """
    kept = "".join(c if c.isalnum() or c in ".-" else " " for c in row.name)
    return folder / "_".join(kept.split())


def missing_peer(row: Row) -> str:
    """Return the package that a row needs and that is not installed; "" if there is none.

    Example:
        >>> missing_peer(Row("dense"))
        ''
    """
    return row.peer if row.peer and find_spec(row.peer) is None else ""


def draw(job: Job, rows: Sequence[Row], shard: Shard, say: Any = print) -> None:
    """Draw what is missing. Batches take turns among the rows, so that all rows see the same machine.

    Args:
        job: what is drawn.
        rows: in which ways.
        shard: which of the batches are this process's.
        say: prints progress.

    Example:
        >>> draw(Job(pipe=None, folder=Path("out"), prompts=()), [], Shard())
    """
    for row in rows:
        make_folder(folder_of(job.folder, row))
    batches = shard.mine(job.batches())
    for done, batch in enumerate(batches, 1):
        for row in rows:
            if not all(job.path(row, number).exists() for number in batch):
                _draw_batch(job, row, batch, shard)
        say(f"{done} of {len(batches)} batches")


def _draw_batch(job: Job, row: Row, batch: list[int], shard: Shard) -> None:
    prompts, seeds = [job.prompts[n] for n in batch], [job.seed + n for n in batch]
    steps, device = row.steps or job.steps, torch.device(getattr(job.pipe, "device", "cpu"))
    with accelerated(job.pipe, row) as handle:
        wait(device)
        start = time.perf_counter()
        images = draw_batch(job.pipe, prompts, seeds, steps, job.guidance, job.size, output_type="pil").images
        wait(device)
        seconds = time.perf_counter() - start
        report = handle.end().headline() if handle else ""
    for number, image in zip(batch, images, strict=True):
        with whole_file(job.path(row, number)) as part:
            image.save(part, format="png")
    line = {"pictures": len(batch), "seconds": seconds, "report": report}
    with (folder_of(job.folder, row) / _TIMES.format(shard.index)).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def accelerated(pipe: Any, row: Row) -> AbstractContextManager[Any]:
    """Return a context in which a pipeline draws as a row says.

    Args:
        pipe: a diffusers pipeline.
        row: the way.

    Example:
        >>> with accelerated(None, Row("dense")) as handle:
        ...     print(handle)
        None
    """
    if row.peer == TOMESD:
        return _tomesd(pipe)
    return accelerate(pipe, row.recipe) if row.recipe else nullcontext()


@contextmanager
def _tomesd(pipe: Any) -> Iterator[None]:
    import tomesd

    tomesd.apply_patch(pipe, ratio=0.5)
    try:
        yield
    finally:
        tomesd.remove_patch(pipe)


def times(folder: Path, row: Row) -> tuple[float, str]:
    """Return seconds a picture, without the first batch of each process if there are others, and the last report.

    Args:
        folder: of the experiment.
        row: the way.

    Example:
        >>> times(Path("no such folder"), Row("dense"))
        (nan, '')
    """
    counted, last = list[dict[str, Any]](), ""
    for path in sorted(folder_of(folder, row).glob(_TIMES.format("*"))):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        counted += lines[1:] or lines
        last = lines[-1]["report"] if lines else last
    pictures = sum(line["pictures"] for line in counted)
    return (sum(line["seconds"] for line in counted) / pictures if pictures else float("nan")), last


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of an experiment into its folder, or compare them with those that are there.

    Args:
        folder: of the experiment.
        settings: plain values.

    Raises :class:`RecipeError` for a folder with the pictures of other settings.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> check_settings(folder, {"steps": 50})
        >>> check_settings(folder, {"steps": 20})
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: ... holds pictures of other settings (steps 50): give another --folder
    """
    path = folder / "settings.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        other = {key: found.get(key) for key, value in settings.items() if found.get(key) != value}
        if other:
            said = ", ".join(f"{key} {value}" for key, value in other.items())
            raise RecipeError(f"{str(folder)!r} holds pictures of other settings ({said}): give another --folder")
        return
    make_folder(folder)
    write_json(path, settings)
