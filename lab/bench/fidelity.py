"""`skipstone bench fidelity`: how far pictures drawn with fewer multiply-adds are from the dense ones.

Every way draws the same noises as the dense run, on the demo's models. The control is the same sampler with fewer steps:
its error at the same multiply-adds is interpolated on its curve.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import RecipeError, SkipstoneError
from ...core.measure.fidelity import fidelity, frechet_distance, relative_error
from ...core.measure.macs import count_macs
from ...core.measure.timing import interleave, machine, threads, wait
from ...pipelines.accelerate import accelerate
from ..demo_models.classifier import IconClassifier, accuracy, load_classifier
from ..demo_models.model import load_demo
from ..demo_models.pictures import CLASSES
from ..demo_models.pipeline import LATENT_CHANNELS, LATENT_SIZE, to_pictures
from .fidelity_tables import FIDELITY, plot
from .fidelity_ways import FEWER, Model, Way, ways
from .figures import Figures, Files, Progress, load_figures, publish

ResultRow = dict[str, Any]


@dataclass(frozen=True)
class FidelityBench(Files):
    """Compare pictures of the demo's models, drawn with fewer multiply-adds, with the dense ones of the same noise.

    Example:
        >>> FidelityBench(steps=1).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: steps and noises must be 2 or more, ...
    """

    models: tuple[Model, ...] = ("unet", "dit")
    """Which of the demo's models: unet, dit, flow."""
    files: tuple[Path, ...] = ()
    """Recipe (.json) and mask (.safetensors) files to compare as well, on the models that they fit."""
    steps: int = 50
    """Sampling steps of the dense run (DDIM; Euler for the flow model; guidance 3)."""
    noises: int = 20
    """Pictures per seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the noise; figures are their mean and spread."""
    rounds: int = 3
    """Timed rounds of ten pictures (or `noises`, where those are fewer), all ways in turn; 0 takes no time."""
    keep: Path | None = None
    """Figures of an earlier run: its models are not drawn again, only timed again."""
    weights: Path | None = None
    """Weights other than the shipped ones, for a single model."""
    threads: int | None = None
    """torch threads; torch's own number without it."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    section: str = ""
    """Markers of the Markdown section: `<!-- bench fidelity SECTION -->`."""
    plot: Path = Path("out/bench_fidelity.png")
    """Error against multiply-adds."""
    out: Path = Path("out/bench_fidelity.json")

    def check(self) -> None:
        """Raise :class:`RecipeError` for options that cannot be measured."""
        if self.steps < 2 or self.noises < 2 or self.rounds < 0 or not self.seeds or not self.models:
            raise RecipeError(
                "steps and noises must be 2 or more, rounds 0 or more, and there must be a seed and a model"
            )
        if self.weights and len(self.models) != 1:
            raise RecipeError(f"weights {str(self.weights)!r} are for one model: choose it with --models")


def run_fidelity_bench(options: FidelityBench, say: Progress = print, command: str = "") -> Figures:
    """Measure or load, then show, plot, save and document.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for options or files that cannot be used.

    Example:
        >>> run_fidelity_bench(FidelityBench(load=Path("no such file")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench fidelity' ...
    """
    options.check()
    with threads(options.threads or torch.get_num_threads()), torch.no_grad():
        bench = replace(FIDELITY, name=f"{FIDELITY.name} {options.section}".strip())
        result = publish(bench, options, lambda: measure(options, say, command), say)
    plot(options.plot, result)
    say(f"wrote {options.plot}")
    return result


def measure(options: FidelityBench, say: Progress, command: str = "") -> Figures:
    """Measure all figures of the bench.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns plain values.

    Example:
        >>> measure(FidelityBench(models=(), rounds=0), print)["models"]
        []
    """
    result = _kept(options, command) if options.keep else _empty(options, command)
    there = [model["model"] for model in result["models"]]
    for kind in options.models:
        if kind not in there:
            result["models"].append(_compare(kind, options, result["absent"], say))
    if options.rounds:
        result["timed"] = machine(options.device)
        for model in result["models"]:
            if model["model"] in options.models:
                _take_times(model, options, say)
    return result


def _settings(options: FidelityBench) -> dict[str, Any]:
    return {"steps": options.steps, "noises": options.noises, "seeds": list(options.seeds)}


def _empty(options: FidelityBench, command: str) -> Figures:
    common = {"command": command, "machine": machine(options.device), "absent": []}
    return {**common, "models": [], "timed": None, **_settings(options)}


def _kept(options: FidelityBench, command: str) -> Figures:
    assert options.keep is not None
    result = load_figures(FIDELITY, options.keep)
    for name, value in _settings(options).items():
        if result[name] != value:
            raise RecipeError(f"{str(options.keep)!r} was made with --{name} {result[name]}: give the same")
    result["command"] = f"{result['command']}; {command}"
    return result


class Painter:
    """Draws with one of the demo's models: dense with any number of steps, or by a recipe.

    Args:
        model: which of the demo's.
        options: of the command.

    Example:
        >>> Painter("dit", FidelityBench(steps=1)).draw(count=2).shape
        torch.Size([2, 12, 32, 32])
    """

    def __init__(self, model: Model, options: FidelityBench) -> None:
        """Load the model."""
        self.pipe = load_demo(model, options.weights, options.device)
        self.pipe.set_progress_bar_config(disable=True)
        self.options = options

    def draw(self, way: Way | None = None, seed: int = 0, count: int = len(CLASSES)) -> Tensor:
        """Draw latents [count, 12, 32, 32], classes in turn.

        Args:
            way: how to draw; dense if None.
            seed: of the noise.
            count: of pictures.

        Raises :class:`SkipstoneError` if a recipe has no effect.
        """
        device, recipe = self.options.device, way and way.recipe
        steps = (way and way.steps) or self.options.steps
        noise = torch.randn(
            count, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(seed)
        )
        with accelerate(self.pipe, recipe) if recipe else nullcontext() as handle:
            latents = self.pipe(labels(count), steps, latents=noise, output_type="latent", return_dict=False)[0]
            if handle and handle.report().idle:
                raise SkipstoneError(handle.report().headline())
        wait(torch.device(device))
        return latents.cpu()


def labels(count: int) -> Tensor:
    """Labels int64 [count], classes in turn.

    Example:
        >>> labels(12).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    """
    return torch.arange(count) % len(CLASSES)


def _compare(kind: Model, options: FidelityBench, absent: list[str], say: Progress) -> Figures:
    """One model: a row for each way that it can run."""
    painter, classifier = Painter(kind, options), load_classifier()
    counted = {seed: _counted(painter, None, seed) for seed in options.seeds}
    dense = {seed: latents for seed, (latents, _) in counted.items()}
    dense_macs = counted[options.seeds[0]][1]
    rows = []
    for way in ways(kind, options.steps, options.files):
        say(f"{kind}: {way.name}")
        try:
            drawn = {seed: _counted(painter, way, seed) for seed in options.seeds}
        except SkipstoneError as reason:
            absent.append(f"{way.name} on the {kind}: {reason}")
            continue
        errors = [_errors(classifier, drawn[seed][0], dense[seed]) for seed in options.seeds]
        share = sum(macs for _, macs in drawn.values()) / len(drawn) / dense_macs
        row = {"name": way.name, "group": way.group, "share": share, "times_faster": None}
        rows.append(row | {name: [e[name] for e in errors] for name in errors[0]})
    readable = [accuracy(classifier, to_pictures(latents), labels(len(latents))) for latents in dense.values()]
    return {"model": kind, "dense_macs": dense_macs, "readable": readable, "rows": _beside_fewer_steps(rows)}


def _counted(painter: Painter, way: Way | None, seed: int) -> tuple[Tensor, int]:
    """Latents, and the multiply-adds that they took."""
    drawn: list[Tensor] = []
    macs = count_macs(lambda: drawn.append(painter.draw(way, seed, painter.options.noises)))
    return drawn[0], macs


def _errors(classifier: IconClassifier, latents: Tensor, dense: Tensor) -> dict[str, float | None]:
    """Distances of latents [B, 12, 32, 32] to the dense run's (:mod:`.fidelity`); no decibels for equal pictures."""
    pictures, reference = to_pictures(latents), to_pictures(dense)
    close = fidelity(pictures, reference)
    return {
        "error": relative_error(latents, dense),
        "psnr_db": close.psnr_db if isfinite(close.psnr_db) else None,
        "ssim": close.ssim,
        "frechet": frechet_distance(classifier.features(pictures), classifier.features(reference)),
        "readable": accuracy(classifier, pictures, labels(len(pictures))),
    }


def _beside_fewer_steps(rows: list[ResultRow]) -> list[ResultRow]:
    """Each row with the error that the control has at its multiply-adds, by linear interpolation; None below the control."""
    curve = sorted((row["share"], float(np.mean(row["error"]))) for row in rows if row["group"] == FEWER)
    shares, errors = zip(*curve, (1.0, 0.0), strict=True)
    for row in rows:
        inside = row["share"] >= shares[0]
        row["fewer_steps_error"] = float(np.interp(row["share"], shares, errors)) if inside else None
    return rows


def _take_times(model: Figures, options: FidelityBench, say: Progress) -> None:
    """Median times of ten pictures, dense over each row's."""
    painter, kind = Painter(model["model"], options), model["model"]
    known = {c.name: c for c in ways(kind, options.steps, options.files)}
    rows = [row for row in model["rows"] if row["name"] in known]
    count = min(options.noises, len(CLASSES))
    cases = {"dense": partial(painter.draw, count=count)}
    cases |= {row["name"]: partial(painter.draw, known[row["name"]], count=count) for row in rows}
    took = interleave(cases, options.rounds, lambda done: say(f"{kind}: timed round {done} of {options.rounds}"))
    for row in rows:
        row["times_faster"] = took["dense"].median / took[row["name"]].median
    model["dense_seconds"] = took["dense"].median
