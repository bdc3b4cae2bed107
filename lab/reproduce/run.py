"""`skipstone reproduce NAME`: draws a paper's pictures and puts our figures beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...core.errors import RecipeError
from ...core.measure.fidelity import frechet_distance, ssim
from ...core.measure.timing import machine
from ...pipelines.samplers import set_sampler
from ..bench.figures import Bench, Figures, Files, Progress, Table, publish
from ..demo_models.loading import DEMOS, load_model
from ..demo_models.pictures import CLASSES
from .drawing import Job, Shard, check_settings, draw, missing_peer, this_shard, times
from .features import Features, batches_of, features_of, inception, pictures_in, shipped
from .protocols import DENSE, Name, Protocol, Row, protocol

_COLUMNS = ("FID", "s a picture", "speed-up")


@dataclass(frozen=True)
class Reproduce(Files):
    """Draw the pictures of a paper's experiment, dense and in each of its ways, and measure them as the paper does.

    Pictures are kept, so that a stopped run goes on; `accelerate launch -m skipstone reproduce NAME ...` divides them among
    devices. Fréchet distances to the paper's reference pictures need `--references` and `--inception`.

    Example:
        >>> Reproduce(experiment="ca-tome", pictures=1).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: --pictures 1: a distribution needs 2 or more
    """

    experiment: Name = "ca-tome"
    """ca-tome; dato (ImageNet classes) or dato-coco; of block masking dit-256, dit-512 or pixart."""
    model: str = "demo"
    """The paper's model, as a diffusers folder or a .safetensors file; `demo`, `demo-dit` and `demo-flow` try the command."""
    prompts: Path | None = None
    """A text file with a class or caption a line, as the experiment wants them; the demo's models have their own."""
    references: Path | None = None
    """A folder of the pictures that FID is measured against."""
    inception: Path | None = None
    """torch-fidelity's Inception weights. The demo's models use the shipped classifier."""
    pictures: int | None = None
    """How many; as many as the paper by default."""
    only: tuple[str, ...] = ()
    """Names of rows to draw beside dense; all by default."""
    mask: Path | None = None
    """A trained mask for the model and the experiment's steps, for block masking."""
    steps: int | None = None
    """The paper's by default."""
    batch: int = 4
    """Pictures at a time."""
    seed: int = 0
    """Of the first picture's noise; picture i has seed + i."""
    half: bool = False
    """Load the model in float16."""
    device: str = "cpu"
    """cpu, cuda or mps; under `accelerate launch`, the process's own."""
    folder: Path | None = None
    """Where the pictures go; out/reproduce/EXPERIMENT by default."""
    out: Path = Path("out/reproduce.json")

    def check(self) -> None:
        """Raise :class:`RecipeError` for options that cannot be measured."""
        if self.pictures is not None and self.pictures < 2:
            raise RecipeError(f"--pictures {self.pictures}: a distribution needs 2 or more")
        if self.batch < 1 or (self.steps is not None and self.steps < 1):
            raise RecipeError("--batch and --steps must be 1 or more")
        if self.prompts is None and self.model not in DEMOS:
            raise RecipeError(
                f"--prompts is missing: a text file, one line each, of {protocol(self.experiment).prompts}"
            )
        if self.references and not self.inception and self.model not in DEMOS:
            raise RecipeError("--references needs --inception, the weights of torch-fidelity's Inception")


def reproduce(options: Reproduce, say: Progress = print, command: str = "") -> Figures:
    """Draw, measure and show, or show an earlier run's figures.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what the JSON file holds; nothing in the further processes of `accelerate launch`. Raises
    :class:`SkipstoneError` for options or files that cannot be used.

    Example:
        >>> reproduce(Reproduce(load=Path("no such file")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench reproduce' ...
    """
    if options.load:
        return publish(_BENCH, options, dict, say)
    options.check()
    shard = this_shard(options.device == "cpu")
    experiment, folder = protocol(options.experiment, options.mask), _folder(options)
    rows, absent = _rows(experiment, options.only)
    _draw(options, experiment, rows, shard, say)
    shard.wait()
    if shard.index:
        return {}
    return publish(_BENCH, options, lambda: _measured(options, experiment, folder, rows, absent, command), say)


def _folder(options: Reproduce) -> Path:
    return options.folder or Path("out/reproduce") / options.experiment


def _rows(experiment: Protocol, only: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Return the rows that are drawn, and what is absent and why. Raises :class:`RecipeError` for an unknown name."""
    names = [row.name for row in experiment.rows]
    if unknown := [name for name in only if name not in names]:
        raise RecipeError(f"no row {unknown[0]!r}: choose {', '.join(names)}")
    chosen = [row for row in experiment.rows if not only or row.name in (DENSE, *only)]
    absent = [f"{row.name} (pip install {package})" for row in chosen if (package := missing_peer(row))]
    if all(row.name != "trained mask" for row in experiment.rows) and any(
        "FORA" in row.name for row in experiment.rows
    ):
        absent.append("trained mask (train one with `skipstone train-mask`, give it as --mask)")
    return [row for row in chosen if not missing_peer(row)], absent


def _draw(options: Reproduce, experiment: Protocol, rows: list[Row], shard: Shard, say: Progress) -> None:
    demo, folder = options.model in DEMOS, _folder(options)
    steps, count = options.steps or experiment.steps, options.pictures or experiment.pictures
    guidance, size = (None, None) if demo else (experiment.guidance, experiment.size)
    settings = {"model": options.model, "steps": steps, "seed": options.seed, "half": options.half}
    if not shard.index:
        check_settings(folder, {"experiment": options.experiment, **settings})
    shard.wait()
    pipe = load_model(options.model, shard.device or options.device, options.half)
    if not demo or experiment.sampler:
        set_sampler(pipe, _sampler(pipe, experiment))
    pipe.set_progress_bar_config(disable=True)
    lines = list(CLASSES) if demo else _lines(options.prompts)
    prompts = tuple(lines[n % len(lines)] if demo else experiment.prompt(lines[n % len(lines)]) for n in range(count))
    draw(Job(pipe, folder, prompts, options.seed, steps, guidance, size, options.batch), rows, shard, say)


def _sampler(pipe: Any, experiment: Protocol) -> str:
    """Return the paper's sampler; a flow model, which has none of these, keeps its own."""
    from ...pipelines.noise import is_flow

    return "" if is_flow(pipe.scheduler) else experiment.sampler


def _lines(path: Path | None) -> list[str]:
    """Return the lines of a file. Raises :class:`RecipeError` if it cannot be read or is empty."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()] if path else []
    except (OSError, ValueError) as error:
        raise RecipeError(f"--prompts {str(path)!r} cannot be read ({error})") from None
    if not lines:
        raise RecipeError(f"--prompts {str(path)!r} has no lines")
    return lines


def _measured(
    options: Reproduce, experiment: Protocol, folder: Path, rows: list[Row], absent: list[str], command: str
) -> Figures:
    """Return all figures: beside the paper's references, beside the dense pictures, and times."""
    count = options.pictures or experiment.pictures
    job = Job(None, folder, ("",) * count)
    paths = {row.name: [job.path(row, number) for number in range(count)] for row in rows}
    size = Image.open(paths[DENSE][0]).size
    features = _features(options)
    seen = {name: features_of(files, features, size) for name, files in paths.items()} if features else {}
    real = features_of(pictures_in(options.references), features, size) if features and options.references else None
    if features is None:
        absent = [*absent, "Fréchet distances (give --inception, and --references for FID)"]
    dense_seconds, _ = times(folder, rows[0])
    measured = []
    for row in rows:
        seconds, report = times(folder, row)
        psnr, similar = _fidelity(paths[row.name], paths[DENSE]) if row.name != DENSE else (None, 1.0)
        figures = {
            "FID": None if real is None else frechet_distance(seen[row.name], real),
            "to dense": frechet_distance(seen[row.name], seen[DENSE]) if seen else None,
            "psnr_db": psnr, "ssim": similar, "seconds": seconds, "speedup": dense_seconds / seconds, "report": report,
        }  # fmt: skip
        measured.append({"name": row.name, "paper": dict(row.paper), **figures})
    about = {key: value for key, value in asdict(replace(experiment, rows=())).items() if key != "rows"}
    return {
        "command": command, "machine": machine(options.device), "absent": absent, "experiment": options.experiment, "about": about,
        "model": options.model, "pictures": count, "steps": options.steps or experiment.steps, "rows": measured,
    }  # fmt: skip


def _features(options: Reproduce) -> Features | None:
    if options.inception:
        return inception(options.inception, options.device)
    return shipped() if options.model in DEMOS else None


def _fidelity(pictures: Sequence[Path], dense: Sequence[Path]) -> tuple[float, float]:
    """Return mean PSNR in decibel and mean SSIM of pictures in files beside those of the dense run."""
    psnr, similar = list[torch.Tensor](), list[torch.Tensor]()
    for ours, theirs in zip(batches_of(pictures), batches_of(dense), strict=True):
        error = (ours - theirs).square().flatten(1).mean(1).clamp_min(1e-10)
        psnr.append(-10 * error.log10())
        similar.append(ssim(ours, theirs))
    return float(torch.cat(psnr).mean()), float(torch.cat(similar).mean())


def _tables(figures: Figures) -> list[Table]:
    about = figures["about"]
    drawn = f"{figures['pictures']} pictures of {figures['model']}, {figures['steps']} steps"
    title = f"{about['paper']}, {figures['experiment']}: {drawn}"
    header = ("way", "FID", "paper", "to dense", "PSNR dB", "SSIM", "s a picture", "paper", "speed-up", "paper")
    return [Table(title, header, tuple(_cells(row) for row in figures["rows"]))]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def said(value: float | None, form: str) -> str:
        return "-" if value is None or not math.isfinite(value) else format(value, form)

    paper = [row["paper"].get(column) or "-" for column in _COLUMNS]
    ours = (said(row["FID"], ".2f"), said(row["seconds"], ".2f"), said(row["speedup"], ".2f"))
    near = (said(row["to dense"], ".2f"), said(row["psnr_db"], ".1f"), said(row["ssim"], ".3f"))
    return (row["name"], ours[0], paper[0], *near, ours[1], paper[1], ours[2], paper[2])


_BENCH = Bench("reproduce", ("experiment", "about", "model", "pictures", "steps", "rows"), _tables)
