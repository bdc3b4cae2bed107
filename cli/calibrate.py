"""`skipstone calibrate pairs`: measure pair drift on the user's model and write a checkpoint list for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from ..core.calibrate.drift import Drift, DriftMeter, as_paper_calls, choose_checkpoints, staleness
from ..core.errors import ModelError, RecipeError
from ..core.files import make_folder, write_figure, write_json
from ..core.plan.checkpoints import Checkpoints
from ..core.plan.run import Positions
from ..core.recipe.checkpoint_lists import CHECKPOINT_PRESETS
from ..core.recipe.presets import as_recipe
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..lab.demo_models.loading import DEMO, load_model
from ..lab.demo_models.pictures import CLASSES
from ..lab.demo_models.pipeline import IconPipeline
from ..pipelines.accelerate import accelerate
from ..pipelines.loading import draw
from ..pipelines.schedule import PipelineSchedule
from .options import OnPipeline, helped

PROMPTS = ("a photograph of a cat on a sofa", "a wide mountain landscape at dawn, oil painting")
NUMBERS = ("0", "1")
"""Classes, for a model that knows no words."""


@dataclass(frozen=True)
class CalibratePairs(OnPipeline):
    """Measure how merged pairs drift from call to call on a model, and write the checkpoint list that suits it.

    Example:
        >>> CalibratePairs(count=5).model
        'demo'
    """

    model: str = DEMO
    """"demo", a diffusers folder, or a single .safetensors checkpoint."""
    prompts: tuple[str, ...] = ()
    """One run each; class names or numbers for class-conditional models."""
    steps: int = 50
    """Sampling steps."""
    seed: int = 0
    """Seed of the first run's noise; each further run takes the next."""
    recipe: str = "ca_tome"
    """Preset or JSON file whose other settings are kept."""
    threshold: Annotated[float | None, helped(TokenMerge, "threshold")] = None
    count: int = 13
    """How many checkpoints to place (CONFIG_3 has 13)."""
    absolute: bool = False
    """Write calls of a run with this many steps, instead of the paper's 51."""
    out: Path = Path("out")
    """Folder for pairs_recipe.json, pairs_drift.json and pairs_drift.png."""


def calibrate_pairs(options: CalibratePairs, say: Callable[[str], Any] = print) -> dict[str, Any]:
    """Measure, choose checkpoints, and write the recipe.

    Args:
        options: of the command.
        say: prints progress.

    Returns what pairs_drift.json holds. Raises :class:`SkipstoneError` for input that cannot be used.

    Example:
        >>> calibrate_pairs(CalibratePairs(steps=1))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: steps=1 has no neighbouring calls: give 2 or more
    """
    merge = _settings(options)
    pipe = load_model(options.model, options.device, options.half, options.config)
    drift, timesteps = measure(pipe, merge, options, say)
    chosen = choose_checkpoints(drift.mean, options.count)
    train_steps = PipelineSchedule(pipe).train_steps
    written = chosen if options.absolute else as_paper_calls(chosen, timesteps, train_steps)
    recipe = Recipe(dataclasses.replace(merge, checkpoints=written, absolute=options.absolute), "calibrated pairs")
    result = {
        "model": options.model,
        "steps": options.steps,
        "calls": drift.calls,
        "threshold": merge.threshold,
        "checkpoints": list(chosen),
        "checkpoints_written": list(written),
        "accumulated_drift": _compare(drift, chosen, timesteps, train_steps),
        "drift_mean": list(drift.mean),
        "drift_layers": {layer: list(values) for layer, values in drift.layers.items()},
    }
    _write(options.out, recipe, result, drift)
    _print(result, options.out, say)
    return result


def measure(
    pipe: Any, merge: TokenMerge, options: CalibratePairs, say: Callable[[str], Any] = print
) -> tuple[Drift, list[float]]:
    """Run the prompts with pairs searched at every call.

    Args:
        pipe: a diffusers pipeline.
        merge: settings of the token merging.
        options: of the command.
        say: prints progress.

    Returns the drift and the runs' timesteps. Raises :class:`SkipstoneError` if no pairs were found.

    Example:
        >>> pipe = load_model("demo-dit")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> options = CalibratePairs(prompts=("sun",), steps=2, guidance=1.0)
        >>> measure(pipe, TokenMerge(threshold=0.5), options, lambda text: None)[0].calls
        2
    """
    meter = DriftMeter()
    every = dataclasses.replace(merge, checkpoints="every", bucket=1, start=0.0, end=1.0)
    prompts = options.prompts or default_prompts(pipe)
    with accelerate(pipe, every, observer=meter) as handle:
        for number, prompt in enumerate(prompts):
            say(f"run {number + 1} of {len(prompts)}: {prompt}")
            draw(pipe, prompt, options.steps, options.seed + number, options.guidance, options.size)
        report = handle.report()
    drift = meter.drift()
    if not drift.layers:
        raise ModelError(f"no pairs were compared: {report.headline()}; give more --steps")
    if not meter.pairs_seen:
        raise RecipeError(f"no two tokens reached the threshold {merge.threshold:g}: lower --threshold")
    return drift, PipelineSchedule(pipe).timesteps()


def _settings(options: CalibratePairs) -> TokenMerge:
    merge = as_recipe(options.recipe).merge or TokenMerge()
    if options.threshold is not None:
        merge = dataclasses.replace(merge, threshold=options.threshold)
    if merge.destination == "random":
        raise RecipeError(
            "destination='random' draws new pairs at each call, so drift cannot be measured: use 'top_left'"
        )
    if merge.neutral:
        raise RecipeError(f"threshold={merge.threshold:g} merges nothing: choose one below 1")
    if options.steps < 2:
        raise RecipeError(f"steps={options.steps} has no neighbouring calls: give 2 or more")
    return dataclasses.replace(merge, index_base=0)


def default_prompts(pipe: Any) -> tuple[str, ...]:
    """The classes of the shipped models; two classes or prompts for others.

    Example:
        >>> default_prompts(load_model("demo"))[:2]
        ('sun', 'moon')
    """
    if isinstance(pipe, IconPipeline):
        return CLASSES
    known = signature(pipe.__call__).parameters
    return NUMBERS if "class_labels" in known and "prompt" not in known else PROMPTS


def _compare(drift: Drift, chosen: tuple[int, ...], timesteps: list[float], train_steps: float) -> dict[str, float]:
    """Accumulated drift (:func:`staleness`) of the chosen list and of the paper's, on this run."""
    positions = Positions.of_run(timesteps, train_steps)
    lists = {
        name: sorted(Checkpoints(calls, timesteps=tuple(timesteps), positions=positions).planned())
        for name, calls in CHECKPOINT_PRESETS.items()
        if name != "every"
    }
    named = {f"calibrated ({len(chosen)})": chosen, **{f"{n} ({len(calls)})": calls for n, calls in lists.items()}}
    return {name: staleness(drift.mean, calls) for name, calls in named.items()}


def _write(folder: Path, recipe: Recipe, result: dict[str, Any], drift: Drift) -> None:
    make_folder(folder)
    recipe.save(folder / "pairs_recipe.json")
    write_json(folder / "pairs_drift.json", result)
    plot(folder / "pairs_drift.png", drift, tuple(result["checkpoints"]), result["threshold"])


def _print(result: dict[str, Any], folder: Path, say: Callable[[str], Any]) -> None:
    say("accumulated drift, mean per call (0: pairs always fresh):")
    for name, value in result["accumulated_drift"].items():
        say(f"  {name:22} {value:.3f}")
    say(f"checkpoints: {', '.join(map(str, result['checkpoints_written']))}")
    say(f"wrote {folder / 'pairs_recipe.json'}, pairs_drift.json and pairs_drift.png")


def plot(path: Path, drift: Drift, checkpoints: tuple[int, ...], threshold: float) -> None:
    """Plot J(k) per layer (thin) and its mean (thick), with the checkpoints marked.

    Args:
        path: of the PNG.
        drift: to plot.
        checkpoints: calls at which pairs are searched.
        threshold: of the merging, for the title.

    Raises :class:`FileError`.

    Example:
        >>> plot(Path("/no such folder/a.png"), Drift(2, {"a": (0.1,)}), (0,), threshold=0.7)
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write '/no such folder/a.png' ...
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    at = [k + 0.5 for k in range(drift.calls - 1)]
    for values in drift.layers.values():
        axes.plot(at, [float("nan") if v is None else v for v in values], color="tab:blue", lw=0.6, alpha=0.45)
    axes.plot([], [], color="tab:blue", lw=0.6, label=f"each of {len(drift.layers)} layers")
    axes.plot(at, drift.mean, color="black", lw=2, label="mean")
    for number, call in enumerate(checkpoints):
        axes.axvline(call, color="tab:orange", lw=1, zorder=0, label="checkpoint" if number == 0 else None)
    axes.set(xlabel="call", ylabel="Jaccard distance to the next call", ylim=(0, 1), xlim=(-0.5, drift.calls - 0.5))
    axes.set_title(f"pair drift at threshold {threshold:g}, {drift.calls} calls", loc="left")
    axes.legend(loc="upper center", ncols=3, frameon=False)
    write_figure(path, figure, 150)
