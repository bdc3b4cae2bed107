"""`skipstone train-mask`: train a mask on the user's own model, and write it with its curves."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from ..core.calibrate.masks.settings import TrainSettings
from ..core.calibrate.masks.shards import Shards
from ..core.calibrate.masks.trainer import Progress, Trained, train
from ..core.errors import FileError, RecipeError, reason_of, shown_path
from ..core.files import make_folder
from ..lab.demo_models.loading import load_model
from ..pipelines.conditions import conditions_of
from ..pipelines.denoiser import PipelineDenoiser, denoiser_of
from .options import OnPipeline, described, plain
from .processes import joined

Model = Annotated[str, tyro.conf.Positional]
TrainOptions = described(TrainSettings)


@dataclass(frozen=True)
class TrainMask(OnPipeline):
    """Learn which blocks run at which call on a model, from noise alone. Ctrl-C keeps what was learned.

    Example:
        >>> TrainMask("demo-dit", TrainOptions(target=0.5)).training.target
        0.5
    """

    model: Model
    """"demo", "demo-dit", "demo-flow", a diffusers folder, or a single .safetensors checkpoint."""
    training: Annotated[TrainOptions, tyro.conf.arg(name="")] = field(default_factory=TrainOptions)  # type: ignore[valid-type]
    steps: int = 20
    """Sampling steps that the mask is for, with the pipeline's own scheduler."""
    prompts: tuple[str, ...] = ()
    """Texts, or class names and numbers; each sample takes one of them."""
    embeddings: Path | None = None
    """Instead of prompts: a safetensors file with `embeddings` [n, tokens, channels] and, for guidance, `empty` [1, ...];
    for SDXL and SD3 also `pooled` [n, channels] and `empty_pooled`."""
    frames: int | None = None
    """Frames of a video; the pipeline's own by default."""
    resume: bool = False
    """Continue the training that was stopped, from OUT/mask_training.safetensors."""
    out: Path = Path("out")
    """Folder for mask.safetensors, mask_training.safetensors, mask_curve.png, mask_heatmap.png, mask_histogram.png."""


def train_mask(options: TrainMask, say: Callable[[str], Any] = print) -> Trained:
    """Train, write the mask and its pictures, and print their names.

    Args:
        options: of the command.
        say: prints progress.

    Returns the result of the training. Raises :class:`SkipstoneError` for input that cannot be used.

    Example:
        >>> train_mask(TrainMask("no such model"))
        Traceback (most recent call last):
        skipstone.core.errors.ModelError: no model at 'no such model': ...
    """
    with joined(options.device) as (shards, device):
        denoiser = _denoiser(options, device)
        checkpoint = options.out / "mask_training.safetensors"
        if options.resume:
            _check_shared(checkpoint, shards)
        if shards.first:
            _check_writable(options.out)
        settings = plain(options.training, TrainSettings)
        with _shown(settings, shards.first) as show:
            trained = train(denoiser, settings, show, checkpoint, options.model, options.resume)
        if shards.first:
            _write(options.out, trained, say)
    return trained


def _check_shared(checkpoint: Path, shards: Shards) -> None:
    """All processes go on from the same file. Raises :class:`RecipeError` where some do not see it."""
    if 0 < float(shards.mean(torch.tensor(float(checkpoint.exists())))) < 1:
        raise RecipeError(f"not all machines see {str(checkpoint)!r}: give an --out that they share")


def _check_writable(folder: Path) -> None:
    """Before hours of training, not after them. Raises :class:`FileError`."""
    make_folder(folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise FileError(f"cannot write into {shown_path(folder)} ({reason_of(error)}): give another --out") from None


def _denoiser(options: TrainMask, device: str) -> PipelineDenoiser:
    pipe = load_model(options.model, device, options.half, options.config)
    given = conditions_of(pipe, options.prompts, options.size, options.embeddings) if options.embeddings else None
    video = {"num_frames": options.frames} if options.frames else {}
    return denoiser_of(pipe, options.steps, options.guidance, options.prompts, given, options.size, **video)


@contextmanager
def _shown(settings: TrainSettings, here: bool) -> Iterator[Callable[[Progress], None]]:
    """A progress bar with loss, share and expected speed-up."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    words = "{task.description} {task.completed:.0f}/{task.total:.0f}"
    columns = (TextColumn(words), BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
    with Bar(*columns, disable=not here) as bar:
        tasks = {
            "train": bar.add_task("passes", total=settings.passes, figures=""),
            "refine": bar.add_task("search", total=settings.refine, figures="", visible=settings.refine > 0),
        }

        def show(now: Progress) -> None:
            figures = f"loss {now.loss:.2e}  share {now.share:.1%}  {now.speedup:.2f}x  settled {now.settled:.0%}"
            bar.update(tasks[now.stage], completed=now.done, figures=figures)

        yield show


def _write(folder: Path, trained: Trained, say: Callable[[str], Any]) -> None:
    from ..core.calibrate.masks.report import write_report

    share = trained.mask.provenance["share"]
    say(f"{'stopped early; ' if trained.stopped else ''}{share:.1%} of the multiply-adds, {1 / share:.2f}x")
    if trained.kept_start:
        say("training found nothing better than the mask it started at, and keeps that one")
    say(f"wrote {_saved(trained, folder, say)}")
    try:
        say(f"wrote {', '.join(p.name for p in write_report(folder, trained))}")
    except FileError as error:
        say(str(error))


def _saved(trained: Trained, folder: Path, say: Callable[[str], Any]) -> Path:
    """Where the mask was written: a trained mask is not lost to a full disk. Raises :class:`FileError` where none has room."""
    fallbacks = (Path.cwd(), Path(tempfile.gettempdir()))
    for place in (folder, *fallbacks):
        name = "mask.safetensors" if place is folder else f"skipstone_mask_{secrets.token_hex(4)}.safetensors"
        try:
            trained.mask.save(place / name)
        except FileError as error:
            say(str(error))
        else:
            return place / name
    raise FileError("the trained mask could not be written anywhere: make room and continue with --resume")
