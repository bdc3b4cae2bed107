"""Running a search with optuna: NSGA-II, storage that several workers share, and continuing a search that was stopped."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RecipeError, reason_of, shown_path
from .crossover import ScheduleCrossover
from .front import Point, front
from .space import Space, Values

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

NEEDS_OPTUNA = "the search needs optuna: pip install 'skipstone[search]'"


@dataclass(frozen=True)
class Goal:
    """What is minimised.

    Args:
        objective: values -> (error, cost).
        settings: plain values that all workers of a study must share.
        allowed: whether values may be tried; checked before anything is drawn with them.

    Example:
        >>> Goal(lambda values: (0.1, values["a"]), settings={}).objective({"a": 0.5})
        (0.1, 0.5)
    """

    objective: Callable[[Values], Point]
    settings: dict[str, Any]
    allowed: Callable[[Values], bool] = lambda values: True


@dataclass(frozen=True)
class Budget:
    """How long and how to search.

    Args:
        trials: evaluations in all, those of earlier runs and of other workers included.
        population: size of a generation.
        seed: of the search.
        plain: use optuna's own children.

    Example:
        >>> Budget(trials=10).population
        24
    """

    trials: int = 200
    population: int = 24
    seed: int = 0
    plain: bool = False


@dataclass(frozen=True)
class Found:
    """One evaluated point.

    Args:
        values: by name.
        point: (error, cost).

    Example:
        >>> Found({"a": 1}, (0.1, 0.5)).point
        (0.1, 0.5)
    """

    values: dict[str, Any]
    point: Point


def run_study(
    space: Space,
    goal: Goal,
    budget: Budget,
    name: str = "search",
    storage: str | None = None,
    on_trial: Callable[[int, list[Found]], Any] = lambda done, found: None,
) -> list[Found]:
    """Search until the study holds `budget.trials` evaluations. Returns all of them, those of other workers included.

    Args:
        space: to search.
        goal: what is minimised.
        budget: how long.
        name: of the study.
        storage: None for memory, a file for a journal, or any optuna URL.
        on_trial: called after each evaluation with their number and all of them.

    Raises :class:`RecipeError` if optuna is absent or the study was made with other settings.

    Example:
        >>> space = Space({"a": (0, 1)}, (), recipe=None)
        >>> found = run_study(space, Goal(lambda values: (1.0 - values["a"], values["a"]), {}), Budget(trials=3))
        >>> len(found)
        3
    """
    with _quiet_optuna():
        study = _open(space, goal, budget, name, storage)
        found = _found(study)
        while len(found) < budget.trials:
            _one(study, space, goal)
            found = _found(study)
            on_trial(len(found), found)
        return found


def pareto(found: list[Found]) -> list[Found]:
    """The points that none dominates, cheapest first.

    Example:
        >>> [f.point for f in pareto([Found({}, (0.1, 0.9)), Found({}, (0.5, 0.2)), Found({}, (0.6, 0.3))])]
        [(0.5, 0.2), (0.1, 0.9)]
    """
    return [found[i] for i in front([f.point for f in found])]


def _one(study: Study, space: Space, goal: Goal) -> None:
    """Evaluate one trial. One that is stopped does not count, and a later run does it again."""
    from optuna.trial import TrialState

    trial: Trial = study.ask()
    values = {name: trial.suggest_categorical(name, levels) for name, levels in space.choices.items()}
    point: Point | None = None
    try:
        point = goal.objective(values)
    finally:
        study.tell(trial, point, state=TrialState.COMPLETE if point else TrialState.FAIL)


def _open(space: Space, goal: Goal, budget: Budget, name: str, storage: str | None) -> Study:
    import optuna

    try:
        study = optuna.create_study(
            study_name=name,
            storage=_storage(storage),
            sampler=_sampler(space, ScheduleCrossover(space, budget.seed, goal.allowed), budget),
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
    except (ValueError, TypeError, LookupError, AttributeError, optuna.exceptions.OptunaError) as error:
        raise RecipeError(
            f"the search in {shown_path(storage or '')} cannot go on ({reason_of(error)}): delete that file, or name another --out"
        ) from None
    if not study.get_trials(deepcopy=False):  # a new study, or one that was stopped before it had all of them
        for key, value in goal.settings.items():
            study.set_user_attr(key, value)
    _check_same(study, goal.settings, name)
    return study


def _sampler(space: Space, crossover: ScheduleCrossover, budget: Budget) -> BaseSampler:
    """NSGA-II whose first generation is the crossover's: optuna itself draws it evenly, and queued trials never join it."""
    from optuna.distributions import CategoricalDistribution
    from optuna.samplers import NSGAIISampler

    whole = {name: CategoricalDistribution(levels) for name, levels in space.choices.items()}

    class Sampler(NSGAIISampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return dict(whole)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
            child = super().sample_relative(study, trial, search_space)
            return child or crossover(study, search_space, [])

    children = None if budget.plain else crossover
    return Sampler(population_size=budget.population, seed=budget.seed, child_generation_strategy=children)


def _check_same(study: Study, settings: dict[str, Any], name: str) -> None:
    for key, value in settings.items():
        had = study.user_attrs.get(key)
        if had != value:
            raise RecipeError(
                f"study {name!r} has {key}={had!r}, not {value!r}: go on with that, or name another --study"
            )


def _found(study: Study) -> list[Found]:
    from optuna.trial import TrialState

    done: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [Found(dict(t.params), tuple(t.values or ())) for t in done]


def _storage(where: str | None) -> BaseStorage | str | None:
    """Open a file as a journal, which needs no server and works on a network share; pass a URL to optuna."""
    if where is None or "://" in where:
        return where
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

    Path(where).parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(where) if sys.platform == "win32" else JournalFileSymlinkLock(where)
    journal = JournalFileBackend(where, lock_obj=lock)
    lock.acquire()
    try:
        _drop_cut_line(Path(where))
    finally:
        lock.release()
    return JournalStorage(journal)


def _drop_cut_line(journal: Path) -> None:
    """Remove a last line that a full disk or a kill cut short: the next line would be joined to it."""
    with journal.open("r+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Context manager: silence optuna's log lines and experimental warnings. Raises :class:`RecipeError` if it is absent."""
    try:
        import optuna
    except ImportError:
        raise RecipeError(NEEDS_OPTUNA) from None
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
