"""Fitted forecasts: the weights are those that a profile's runs ask for, drawn towards a line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from toy_denoiser import ToyDenoiser

from skipstone.core.calibrate.judging import held_out
from skipstone.core.calibrate.profiling import closed_loop, dense, profile
from skipstone.core.calibrate.proposals import proposals
from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.errors import RecipeError
from skipstone.core.forecast import fitted
from skipstone.core.forecast.fitted import Fit, FittedHistory
from skipstone.core.forecast.history import History
from skipstone.core.forecast.predictors import PREDICTORS
from skipstone.core.forecast.profile import Profile, gram_of
from skipstone.core.forecast.shortest_path import one_call_costs
from skipstone.core.forecast.space import RAW, Noise
from skipstone.core.measure.fidelity import relative_errors
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe

TIMES = (900.0, 700.0, 400.0, 100.0)
LEVELS = tuple(Noise((1 - s * s) ** 0.5, s, "eps") for s in (0.95, 0.8, 0.5, 0.2))


def known(inputs: torch.Tensor, outputs: torch.Tensor, kind: str = "eps") -> Profile:
    """The profile of one run [4, 1, ...] of a network that predicts noise, or "v"."""
    levels = tuple(replace(level, predicts=kind) for level in LEVELS)
    return Profile(gram_of(inputs, outputs), TIMES, levels, "toy")


@pytest.mark.parametrize("variance", [0, 4])
def test_without_a_ridge_it_finds_the_combination_that_the_run_obeys(
    variance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last output is a combination of the last two calls and its own input; further channels follow a line."""
    monkeypatch.setattr(fitted, "RIDGE", 1e-9)
    x, o = tiny.noise(4, 1, 4, 8, 8, seed=1), tiny.noise(4, 1, 4, 8, 8, seed=2)
    o[3] = 0.3 * x[3] + 1.7 * o[2] - 0.6 * o[1] + 0.2 * x[2] - 0.1 * x[1]
    history, more = FittedHistory(Fit(known(x, o))), tiny.noise(4, 1, variance, 8, 8, seed=3)
    for step in (0, 1, 2):
        history.add(Fit(known(x, o)).profile.positions[step], RAW, x[step], torch.cat([o[step], more[step]], 1))
    found = history.forecast(1.0, RAW, x[3])
    torch.testing.assert_close(found[:, :4], o[3], rtol=1e-3, atol=1e-3)
    if variance:
        weights = PREDICTORS["line"].weights([2 / 8, 5 / 8], 1.0)
        torch.testing.assert_close(found[:, 4:], weights[0] * more[1] + weights[1] * more[2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("steps", [(0,), (0, 2), (0, 2, 2)])
def test_with_a_strong_ridge_it_is_a_line_on_the_noise(
    steps: tuple[int, ...], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that comes twice takes the place of itself."""
    monkeypatch.setattr(fitted, "RIDGE", 1e9)
    x, o = tiny.noise(4, 1, 4, 8, 8, seed=1), tiny.noise(4, 1, 4, 8, 8, seed=2)
    profiled = known(x, o, kind)
    one, line = FittedHistory(Fit(profiled)), History(PREDICTORS["line"])
    for turn, step in enumerate(steps):
        space = profiled.space_at(step, "eps")
        for history in (one, line):
            history.add(profiled.positions[step], space, x[step] + (turn == 1 and len(steps) == 3), o[step])
    at = profiled.space_at(3, "eps")
    torch.testing.assert_close(one.forecast(1.0, RAW, x[3]), line.forecast(1.0, at, x[3]), rtol=1e-4, atol=1e-4)


def test_its_one_call_errors_are_never_above_those_of_the_line_that_it_starts_from() -> None:
    found = profile(ToyDenoiser(), range(4))  # type: ignore[arg-type]
    line, fit = (one_call_costs(found, "eps", name) for name in ("line", "fitted"))
    where = np.isfinite(line) & (line > 1e-12)
    assert (fit[where] <= line[where] * (1 + 1e-6)).all() and (fit[where] < 0.9 * line[where]).mean() > 0.5


def test_fitted_plans_are_proposed_run_and_judged(tmp_path: Path) -> None:
    denoiser = ToyDenoiser()
    found = profile(denoiser, range(4))  # type: ignore[arg-type]
    found.save(file := tmp_path / "toy.safetensors")
    plans = {
        p.predictor: p for p in reversed(proposals(found, 6, file=str(file))) if p.name == "even" and p.space == "eps"
    }
    errors = {}
    for name, plan in plans.items():
        held = held_out(denoiser, plan, range(40, 49), lambda seeds: dense(denoiser, seeds)[0])  # type: ignore[arg-type]
        errors[name] = held.mean
        assert held.predictor == name
    assert errors["fitted"] < errors["line"]


def test_a_run_with_other_noise_levels_or_without_a_profile_is_refused(tmp_path: Path) -> None:
    denoiser = ToyDenoiser()
    with pytest.raises(RecipeError, match="predictor='fitted' needs a profile of the model"):
        closed_loop(denoiser, [1], CallSkip(predictor="fitted"))  # type: ignore[arg-type]
    profile(denoiser, range(2)).save(file := tmp_path / "toy.safetensors")  # type: ignore[arg-type]
    settings = CallSkip(keys=(0, 5, 11), predictor="fitted", profile=str(file))
    with pytest.raises(RecipeError, match="needs a profile of this run's noise levels"):
        closed_loop(ToyDenoiser(steps=15), [1], settings)  # type: ignore[arg-type]


def test_the_report_says_so_and_the_chosen_recipe_draws_the_same(tmp_path: Path) -> None:
    denoiser = ToyDenoiser()
    profile(denoiser, range(2)).save(file := tmp_path / "toy.safetensors")  # type: ignore[arg-type]
    settings = CallSkip(keys=(0, 4, 8, 11), predictor="fitted", profile=str(file))
    engine, at = Engine(denoiser.network, Recipe.of([settings])), denoiser.begin([7])
    engine.begin(denoiser.timesteps)
    for number, t in enumerate(denoiser.timesteps):
        call = Call(t, (4, 4), (Stream("cond", 1),), input=at.x, noise=denoiser.noise(number))
        at = denoiser.advance(
            at, engine.forward(lambda c=call: c, lambda a=at, n=number: denoiser.predict(a, n)), number
        )
    report = engine.end()
    assert report.lines()[0] == "ran 4 of 12 calls, forecast 8 (fitted to the profile)"
    (again,) = Recipe.of_plain([report.chosen]).methods
    assert again == settings
    assert float(relative_errors(closed_loop(denoiser, [7], again)[0], at.x)) < 1e-6  # type: ignore[arg-type]
