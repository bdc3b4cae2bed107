"""Chooses the settings of call skipping for one run: from a number, and a profile of the model where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import ProfileError, RecipeError
from ..files import is_file
from ..forecast.fitted import Fit
from ..forecast.names import CallPredictorName, Space
from ..forecast.profile import HeldOut, Profile
from ..forecast.shortest_path import best_keys, one_call_costs
from ..recipe.auto import Auto
from ..recipe.call_skip import CallSkip
from ..recipe.recipe import Method, Recipe
from ..recipe.windows import is_whole
from .call_plan import FEWEST_STEPS, Keys, even_keys, wanted_calls
from .rules.base import steps_of
from .run import Horizon
from .step_lengths import gap_comes_early

_MARGIN = 1.5
"""One-call errors of a profile's own runs are multiplied by this to bound those of other pictures."""
_SAME = 0.01
"""Share of the training range by which the timesteps of a run may differ from the profile's."""
_NEAR = 0.05
"""Share by which the cost of a plan may differ from the one that is asked for."""
PROMISED = 0.9
"""Share of pictures whose error is promised."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for one run.

    Args:
        settings: call skipping, ready to run.
        why: one line for the report.
        promise: error of the final latent that 90 % of the pictures stay under; None without held-out results.
        allowed: the largest promise that the user allows; 0 for no limit.
        bounds: step -> one-call error that 95 % of the profile's runs stayed under.
        record: path of the profile to record in this run, all of whose calls run; "" for none.
        beside: methods that act at the calls that run, chosen with them.
        fit: the weights of the forecasts, where they are fitted to the profile.

    Example:
        >>> Choice(CallSkip(calls=7)).promise is None
        True
    """

    settings: CallSkip
    why: str = ""
    promise: float | None = None
    bounds: Mapping[int, float] = field(default_factory=dict)
    record: str = ""
    beside: tuple[Method, ...] = ()
    fit: Fit | None = None
    allowed: float = 0.0


def choose_calls(method: Auto | CallSkip, horizon: Horizon, network: str, alone: bool = True) -> Choice:
    """Return the settings for one run.

    Args:
        method: what the user set.
        horizon: the calls of the run.
        network: identifies the network (:func:`skipstone.core.models.family.identity`).
        alone: whether the user set no other method, so that Auto may add some.

    Raises :class:`RecipeError` for an error that cannot be met, :class:`ProfileError` for a profile that does not fit.

    Example:
        >>> choose_calls(Auto(speedup=2.0), Horizon(steps=20), "toy").settings.speedup
        2.0
    """
    chosen = _choose(method, horizon, network, alone and is_whole(method))
    return chosen if is_whole(method) else _in_window(chosen, method)


def _in_window(choice: Choice, method: Auto | CallSkip) -> Choice:
    """Return a choice for the method's part of the run. More calls run than were measured, so that no error is promised."""
    settings = replace(choice.settings, start=method.start, end=method.end)
    why = f"{choice.why}, and all outside start to end: no error is promised" if choice.promise else choice.why
    return replace(choice, settings=settings, why=why, promise=None)


def _choose(method: Auto | CallSkip, horizon: Horizon, network: str, alone: bool) -> Choice:
    """Return the settings for a whole run."""
    steps = steps_of(horizon) if horizon.timesteps else horizon.steps
    if not method.profile:
        return _without_profile(method)
    if isinstance(method, Auto) and method.record and not is_file(method.profile):
        if horizon.timesteps is None:
            raise ProfileError("no profile can be recorded: this sampler's calls are not known ahead")
        return Choice(CallSkip(calls=len(horizon.timesteps)), record=method.profile)
    profile = Profile.load(method.profile)
    profile.fits(network)
    if steps is None:
        raise ProfileError("this run's steps are not known ahead, so the profile cannot be used: use a speedup alone")
    if steps <= FEWEST_STEPS:
        return Choice(CallSkip(speedup=max(method.speedup, 1.1)))
    if isinstance(method, CallSkip) and method.keys:
        return _with_fit(Choice(method), profile, _same_levels(profile, horizon))
    chosen = _by_profile(method, profile, steps, horizon, alone)
    chosen = _with_fit(chosen, profile, _same_levels(profile, horizon))
    guarded = isinstance(method, CallSkip) or method.guard
    return chosen if guarded else replace(chosen, bounds={})


def _without_profile(method: Auto | CallSkip) -> Choice:
    needs = "a profile of the model: make one with `skipstone profile`"
    if isinstance(method, CallSkip):
        if method.predictor == "fitted":
            raise RecipeError(f"predictor='fitted' needs {needs}, or use a line")
        return Choice(method)
    if method.max_error:
        raise RecipeError(f"max_error needs {needs}, or give a speedup")
    return Choice(CallSkip(speedup=method.speedup), "no profile of this model: even steps by default")


def _with_fit(choice: Choice, profile: Profile, same: bool) -> Choice:
    """Return a choice with the weights of its forecasts, if they are fitted. Raises :class:`ProfileError`."""
    if choice.settings.predictor != "fitted":
        return choice
    if not same:
        raise ProfileError(
            "predictor='fitted' needs a profile of this run's noise levels: make one for them, or use a line"
        )
    return replace(choice, fit=Fit(profile))


def _by_profile(method: Auto | CallSkip, profile: Profile, steps: int, horizon: Horizon, alone: bool) -> Choice:
    same = profile.steps == steps and _same_levels(profile, horizon)
    joint = alone and isinstance(method, Auto)
    plans = [plan for plan in profile.plans if joint or not plan.beside] if same else []
    if isinstance(method, Auto) and method.max_error:
        return _within(method, plans, profile, steps)
    settings = method if isinstance(method, CallSkip) else CallSkip(speedup=method.speedup)
    calls = wanted_calls(settings, steps)
    fitting = [plan for plan in plans if _costs(plan, calls, steps)]
    if fitting:
        return _held(min(fitting, key=lambda plan: plan.quantile(PROMISED)), profile, method.profile)
    keys, space, predictor = _unheld(profile, calls, steps, same)
    what = f"{calls} of {steps} steps" if same else "this run's noise levels"
    why = f"{what} were not measured with this profile: no error is promised"
    used = CallSkip(
        keys=keys, space=space, predictor=predictor, profile=method.profile if predictor == "fitted" else ""
    )
    return Choice(used, why, bounds=_expected(profile, keys, space, predictor) if same else {})


def _costs(plan: HeldOut, calls: int, steps: int) -> bool:
    """Return whether a plan costs as much as this number of calls."""
    return abs(plan.share * steps / calls - 1) <= _NEAR if plan.beside else len(plan.keys) == calls


def _same_levels(profile: Profile, horizon: Horizon) -> bool:
    """Return whether a run has the profile's noise levels. Image to image and other spacings have others."""
    known = np.asarray(horizon.timesteps or ())
    if known.shape != (profile.steps,):
        return False
    return bool(np.abs(known - np.asarray(profile.timesteps)).max() <= _SAME * horizon.train_steps)


def _within(auto: Auto, plans: list[HeldOut], profile: Profile, steps: int) -> Choice:
    """Return the cheapest plan whose promised error is small enough."""
    most = auto.max_error
    fitting = [plan for plan in plans if plan.quantile(PROMISED) <= most]
    if not plans:
        raise RecipeError(
            f"the profile has no plans for this run's {steps} noise levels (it is of {profile.steps} steps with "
            f"{profile.sampler or 'another sampler'}): make one for it"
        )
    if not fitting:
        least = min(plans, key=lambda plan: plan.quantile(PROMISED))
        raise RecipeError(
            f"max_error={most:g} cannot be met by this profile: the nearest is {least.quantile(PROMISED):.3f}, "
            f"with {len(least.keys)} of {steps} steps"
        )
    return replace(_held(min(fitting, key=lambda plan: plan.cost(steps)), profile, auto.profile), allowed=most)


def _held(plan: HeldOut, profile: Profile, path: str) -> Choice:
    file = path if plan.predictor == "fitted" else ""
    settings = CallSkip(keys=plan.keys, space=plan.space, predictor=plan.predictor, profile=file)
    bounds = dict(zip(plan.keys[1:], plan.one_call, strict=False))
    why = f"{plan.name or 'chosen'} steps, by the profile ({profile.sampler}, guidance {profile.guidance:g})"
    promise = plan.quantile(PROMISED)
    beside = Recipe.of_plain(plan.beside).methods
    return Choice(settings, why, promise if np.isfinite(promise) else None, bounds, beside=beside)


def _expected(profile: Profile, keys: Keys, space: Space, predictor: CallPredictorName) -> dict[int, float]:
    """Return what the guard allows at each key but the first: the one-call errors of the profile's own runs, and some more."""
    costs, steps, bounds = one_call_costs(profile, space, predictor), profile.steps, {}
    for place in range(1, len(keys)):
        before = keys[place - 2] if place > 1 else steps
        if keys[place] > keys[place - 1] + 1:
            energy = profile.gram[steps + keys[place], steps + keys[place]]
            bounds[keys[place]] = _MARGIN * float(
                np.sqrt(costs[before, keys[place - 1], keys[place]] / max(energy, 1e-12))
            )
    return bounds


def _unheld(profile: Profile, calls: int, steps: int, same: bool) -> tuple[Keys, Space, CallPredictorName]:
    """Return keys that were not measured: of the nearest measured plan's kind for the profile's noise levels, else even ones."""
    nearest = min(profile.plans, key=lambda p: abs(len(p.keys) / profile.steps - calls / steps), default=None)
    space = nearest.space if nearest else "eps"
    predictor: CallPredictorName = nearest.predictor if nearest and same else "line"
    if nearest is None or nearest.name.startswith("even") or not same:
        return even_keys(steps, calls, early=gap_comes_early(profile.timesteps, predictor)), space, predictor
    weights = next((w for name, w in profile.path_weights().items() if nearest.name.startswith(name)), None)
    return best_keys(one_call_costs(profile, space, predictor), calls, weights), space, predictor
