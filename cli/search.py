"""`skipstone search`: options, the search itself, and its files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..core.calibrate.search import report
from ..core.calibrate.search.evaluator import Evaluator, Outcome
from ..core.calibrate.search.front import spread
from ..core.calibrate.search.metrics import Metric, metric
from ..core.calibrate.search.space import Space, Values
from ..core.calibrate.search.stages import INTERVALS, stage_space
from ..core.calibrate.search.study import Budget, Found, Goal, pareto, run_study
from ..core.errors import RecipeError
from ..core.files import make_folder
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.presets import DATO, as_recipe, preset
from ..core.recipe.recipe import Recipe
from ..lab.demo_models.classifier import icon_frechet
from ..lab.demo_models.loading import DEMO, load_model
from ..pipelines.pictures import PipelinePictures, Samples
from .calibrate import default_prompts
from .options import OnPipeline

FEWER = (0.2, 0.3, 0.4, 0.5, 0.6, 0.75)
"""Shares of the steps at which the dense pipeline is drawn as a control."""
JOURNAL = "search.journal"


@dataclass(frozen=True)
class Search(OnPipeline):
    """Search schedules for a model: error to the dense run against modelled multiply-adds (NSGA-II).

    Example:
        >>> Search(steps=2).check_values()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: the search needs --steps of at least 3, --trials of 1 and --population of 2
    """

    model: Annotated[str, tyro.conf.Positional] = DEMO
    """"demo", a diffusers folder, or a single .safetensors checkpoint."""
    stage: Literal["depths", "ratios", "joint"] = "depths"
    """Cache depths; prune ratios of each call for the depths of --recipe; or depths with token settings."""
    steps: int = 20
    """Sampling steps."""
    trials: int = 200
    """Evaluations in all, those of earlier runs and other workers included."""
    population: int = 24
    """Of a generation."""
    seed: int = 0
    """Seed of the search; give each worker another."""
    recipe: str | None = None
    """Preset or JSON file whose other settings are kept."""
    starts: tuple[str, ...] = ()
    """Presets or JSON files whose depth lists are tried first, such as an earlier search's."""
    levels: tuple[int, ...] = (0, 1, 12)
    """Depth codes: 0 repeats the call, d runs the d outermost levels, 12 all."""
    tokens: Literal["prune", "merge"] = "prune"
    """What the joint stage varies beside the depths."""
    metric: str = "rel_l2"
    """Error to dense: rel_l2 (latents), psnr, ssim, frechet (the demo's classifier)."""
    cost: Literal["macs", "time"] = "macs"
    """Modelled multiply-adds, which repeat exactly, or measured time; both as share of dense."""
    most_cost: float = 1.0
    """Dearer schedules (by their plan) are not tried."""
    worst: float = 1.0
    """Larger errors count as this one, so that no trials go into the useless end."""
    prompts: tuple[str, ...] = ()
    """Class names or numbers for class-conditional models."""
    pictures: int = 10
    """Pictures of each evaluation, over the prompts in turn."""
    check: int = 10
    """Pictures of other noises on which the chosen points are evaluated afterwards; 0 for none."""
    noise_seed: int = 1000
    """Seed of the first picture's noise; each further one takes the next, and the check continues from there."""
    batch: int = 10
    """Pictures drawn together."""
    keep: int = 6
    """Recipe files to write, spread over the front."""
    storage: str | None = None
    """Where trials are kept: a journal file, or any optuna URL; a journal in --out by default."""
    study: str | None = None
    """The study's name in the storage; by stage and steps by default."""
    out: Path = Path("out/search")
    """Folder for search.json, search.png and the recipes."""

    def check_values(self) -> None:
        """Raise :class:`RecipeError` for options that cannot be searched."""
        if self.steps < 3 or self.trials < 1 or self.population < 2:
            raise RecipeError("the search needs --steps of at least 3, --trials of 1 and --population of 2")
        if min(self.pictures, self.batch, self.keep) < 1 or self.check < 0:
            raise RecipeError("the search needs --pictures, --batch and --keep of at least 1, --check from 0 on")
        if len(set(self.levels)) < 2 or min(self.levels) < 0:
            raise RecipeError(f"levels {list(self.levels)} leave nothing to choose: give two depth codes or more")
        if not 0 < self.most_cost <= 1:
            raise RecipeError(f"most_cost={self.most_cost:g} is outside (0, 1]: 0.5 allows half of dense")
        _metric(self.metric)


@dataclass(frozen=True)
class PlotSearch:
    """Print and draw the figures of an earlier search again.

    Example:
        >>> PlotSearch().folder.name
        'search'
    """

    folder: Annotated[Path, tyro.conf.Positional] = Path("out/search")
    """Folder with its search.json."""


def run_search(options: Search, say: Callable[[str], Any] = print, command: str = "") -> dict[str, Any]:
    """Search, check the points found, and write files.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what search.json holds. Raises :class:`SkipstoneError` for input that cannot be used.

    Example:
        >>> run_search(Search(levels=(12,)))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: levels [12] leave nothing to choose: give two depth codes or more
    """
    options.check_values()
    base = as_recipe(options.recipe) if options.recipe else Recipe()
    pipe = load_model(options.model, options.device, options.half, options.config)
    pipe.set_progress_bar_config(disable=True)
    samples = _samples(options, pipe)
    say(f"drawing {samples.count} dense pictures")
    evaluator = Evaluator(PipelinePictures(pipe, samples), _metric(options.metric))
    also = {name: as_recipe(name) for name in options.starts}
    space = stage_space(options.stage, base, len(evaluator.timesteps), options.levels, options.tokens, also)
    found = _search(space, evaluator, options, base)
    result = {"command": command, **_result(found, space, evaluator, options)}
    make_folder(options.out)
    _write_recipes(result["rows"], options.out)
    if options.check:
        _check(result["rows"], pipe, samples, options, say)
    report.save(options.out, result)
    report.show(result)
    say(f"wrote {options.out / report.FIGURES}, {report.PLOT} and the recipes")
    return result


def plot_search(options: PlotSearch) -> None:
    """Print and draw an earlier search. Raises :class:`RecipeError` if there are no figures.

    Example:
        >>> plot_search(PlotSearch(Path("no such folder")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such folder' holds no search ...
    """
    result = report.load(options.folder)
    report.plot(options.folder / report.PLOT, result)
    report.show(result)


def _samples(options: Search, pipe: Any) -> Samples:
    return Samples(
        prompts=options.prompts or default_prompts(pipe),
        count=options.pictures,
        seed=options.noise_seed,
        steps=options.steps,
        guidance=options.guidance,
        size=options.size,
        batch=options.batch,
    )


def _search(space: Space, evaluator: Evaluator, options: Search, base: Recipe) -> list[Found]:
    cost = _cost(evaluator, options)

    def objective(values: Values) -> tuple[float, float]:
        outcome = evaluator(space.recipe(values))
        return min(outcome.error, options.worst), cost(outcome)

    def allowed(values: Values) -> bool:
        return options.most_cost >= 1 or evaluator.costs.share(space.recipe(values)) <= options.most_cost

    kept = ("model", "stage", "tokens", "metric", "cost", "most_cost", "worst")
    settings = {**{key: getattr(options, key) for key in kept}, "levels": list(options.levels)}
    settings |= {"samples": evaluator.samples.to_dict(), "recipe": base.to_dict()}
    budget = Budget(options.trials, options.population, options.seed)
    name = options.study or f"{options.stage} {options.steps} steps"
    with _progress(options.trials) as on_trial:
        storage = options.storage or str(options.out / JOURNAL)
        return run_study(space, Goal(objective, settings, allowed), budget, name, storage, on_trial)


def _cost(evaluator: Evaluator, options: Search) -> Callable[[Outcome], float]:
    if options.cost == "time":
        return lambda outcome: outcome.seconds / evaluator.dense_seconds
    return lambda outcome: outcome.macs


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int, list[Found]], None]]:
    """A progress bar with the front's size and ends."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("first trial", total=total)

        def on_trial(done: int, found: list[Found]) -> None:
            best = pareto(found)
            ends = f"{best[0].point[1]:.0%} to {best[-1].point[1]:.0%} of dense"
            bar.update(task, completed=done, description=f"front of {len(best)}, {ends}")

        yield on_trial


def _result(found: list[Found], space: Space, evaluator: Evaluator, options: Search) -> dict[str, Any]:
    best = pareto(found)
    picked = [best[i] for i in spread([f.point for f in best], options.keep)]
    rows = [_found_row(f, number + 1, space, options) for number, f in enumerate(picked)]
    cost = _cost(evaluator, options)
    return {
        **{key: getattr(options, key) for key in ("model", "stage", "steps", "cost", "worst")},
        "calls": len(evaluator.timesteps),
        "metric_label": _metric(options.metric).label,
        "macs_per_call": evaluator.costs.per_call,
        "samples": evaluator.samples.to_dict(),
        "rows": [*rows, *_controls(evaluator, cost, options)],
        "front": [{"error": f.point[0], "cost": f.point[1], "values": f.values} for f in best],
        "tried": [[f.point[1], f.point[0]] for f in found],
    }


def _found_row(found: Found, number: int, space: Space, options: Search) -> report.ReportRow:
    error, cost = found.point
    title = f"{options.stage} {number:02}"
    origin = f"{title}: {options.steps} steps of {Path(options.model).name}, {cost:.1%} of dense, error {error:.4f}"
    recipe = dataclasses.replace(space.recipe(found.values), name=f"{origin} (skipstone search)")
    row = {"name": title, "short": f"{number}", "kind": "found", "error": error, "cost": cost}
    return {**row, "recipe": recipe.to_dict(), "file": f"{options.stage}_{number:02}.json"}


def _controls(evaluator: Evaluator, cost: Callable[[Outcome], float], options: Search) -> list[report.ReportRow]:
    """Dense, the same sampler with fewer steps, DeepCache at several intervals, and the published lists."""
    rows = [report.ReportRow(name="dense", short="dense", kind="dense", error=0.0, cost=1.0)]
    for steps in sorted({max(2, round(options.steps * share)) for share in FEWER}):
        outcome = evaluator.fewer_steps(steps)
        row = report.ReportRow(name=f"dense, {steps} steps", short=f"{steps}", kind="steps", steps=steps)
        rows.append({**row, "error": outcome.error, "cost": cost(outcome)})
    recipes = {f"DeepCache N={n}": Recipe(skip=BlockSkip(every=n)) for n in INTERVALS}
    for name, recipe in {**recipes, **{name: preset(name) for name in DATO}}.items():
        outcome = evaluator(recipe)
        kind = "preset" if name in DATO else "DeepCache"
        row = report.ReportRow(name=name, short=name.removeprefix("DeepCache "), kind=kind, recipe=recipe.to_dict())
        rows.append({**row, "error": outcome.error, "cost": cost(outcome)})
    return rows


def _write_recipes(rows: list[report.ReportRow], folder: Path) -> None:
    for row in rows:
        if "file" in row:
            Recipe.from_dict(row["recipe"]).save(folder / row["file"])


def _check(
    rows: list[report.ReportRow], pipe: Any, samples: Samples, options: Search, say: Callable[[str], Any]
) -> None:
    """Evaluate the rows on noises that the search never saw; adds `check_error`."""
    say(f"checking on {options.check} other noises")
    other = dataclasses.replace(samples, count=options.check, seed=samples.seed + samples.count)
    evaluator = Evaluator(PipelinePictures(pipe, other), _metric(options.metric))
    for row in rows:
        if "recipe" in row:
            row["check_error"] = evaluator(Recipe.from_dict(row["recipe"])).error
        elif "steps" in row:
            row["check_error"] = evaluator.fewer_steps(row["steps"]).error


def _metric(name: str) -> Metric:
    """A metric by name; the demo's classifier gives one more. Raises :class:`RecipeError` for others."""
    return metric(name, {"frechet": Metric("Frechet distance of icon features", "pt", icon_frechet)})
