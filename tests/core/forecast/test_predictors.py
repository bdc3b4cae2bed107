"""Predictors: exact on polynomials of their order, and the same as the published code where that can be had."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import chebyshev

from skipstone.core.forecast.names import PREDICTOR_NAMES, PredictorName
from skipstone.core.forecast.predictors import PREDICTORS
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.fields import fields_of

ORDERS = {"hold": 0, "line": 1, "taylor2": 2, "taylor3": 3, "taylorseer": 1, "foca": 1}
"""Predictor -> degree of the polynomials that it continues exactly, from unevenly spread values."""


def forecast(name: str, known: list[float], values: Any, target: float, between: Any = ()) -> Any:
    """The forecast of values at known positions."""
    weights = PREDICTORS[name].weights(known, target, between)  # type: ignore[index]
    return weights @ np.asarray(values)


def test_settings_and_predictors_have_the_same_names() -> None:
    assert set(PREDICTORS) == set(get_args(PredictorName)) == set(PREDICTOR_NAMES)
    assert fields_of(CallSkip)["predictor"].choices == ("auto", *PREDICTOR_NAMES, "fitted", "corrected")


@given(st.lists(st.floats(0.02, 0.3), min_size=6, max_size=6), st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_a_polynomial_of_its_order_is_continued_exactly(gaps: list[float], coefficients: list[float]) -> None:
    at = np.cumsum(gaps)
    for name, order in ORDERS.items():
        truth = np.polyval(coefficients[: order + 1], at)
        assert forecast(name, list(at[:5]), truth[:5], at[5]) == pytest.approx(truth[5], abs=1e-6), name


@pytest.mark.parametrize("name", PREDICTORS)
@given(st.lists(st.floats(0.01, 0.3), min_size=2, max_size=7), st.integers(0, 3))
def test_a_constant_stays_constant_but_for_spectrums_ridge(name: str, gaps: list[float], skipped: int) -> None:
    at = np.cumsum(gaps)
    between = np.linspace(at[-2], at[-1], skipped + 2)[1:-1]
    weights = PREDICTORS[name].weights(list(at[:-1]), at[-1], between)  # type: ignore[index]
    assert np.isfinite(weights).all() and len(weights) == len(at) - 1
    assert name == "spectrum" or weights.sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", PREDICTORS)
def test_at_the_last_known_position_the_value_itself_is_the_forecast(name: str) -> None:
    """Heun's second stage and the next step's first one share a noise level."""
    assert forecast(name, [0.0, 0.2, 0.5, 0.6], [1.0, 2.0, 3.0, 7.0], 0.6, [0.6]) == 7.0


@pytest.mark.parametrize("name", PREDICTORS)
def test_one_known_value_is_repeated_and_two_make_no_more_than_a_line(name: str) -> None:
    assert forecast(name, [0.3], [5.0], 0.5) == 5.0 or name == "spectrum"
    two = forecast(name, [0.0, 0.1], [1.0, 2.0], 0.2)
    assert two == pytest.approx({"hold": 2.0, "hermite": 2.5}.get(name, 3.0)) or name == "spectrum"


@pytest.mark.parametrize("name", ["line", "taylor2", "taylorseer", "foca"])
def test_a_little_before_the_last_known_value_a_line_is_a_line(name: str) -> None:
    """Ancestral KDPM2 evaluates beyond the next step's level."""
    assert forecast(name, [0.0, 0.2, 0.4], [0.0, 1.0, 2.0], 0.35) == pytest.approx(1.75)


def test_far_from_two_close_values_the_last_one_is_kept() -> None:
    assert forecast("line", [0.0, 1e-4], [1.0, 2.0], 0.5) == 2.0


def test_spectrum_is_half_a_ridge_fit_of_five_chebyshev_polynomials_and_half_a_line() -> None:
    """Solved here as ordinary least squares with the ridge's rows below."""
    at, target, values = np.array([0.0, 0.1, 0.15, 0.3, 0.5, 0.6]), 0.7, np.array([1.0, 4.0, 2.0, -1.0, 0.5, 0.2])
    rows = np.vstack([chebyshev.chebvander(2 * at - 1, 4), np.sqrt(0.1) * np.eye(5)])
    found = np.linalg.lstsq(rows, np.concatenate([values, np.zeros(5)]), rcond=None)[0]
    fit, line = chebyshev.chebval(2 * target - 1, found), 0.2 + (0.2 - 0.5) / 0.1 * 0.1
    assert forecast("spectrum", list(at), values, target) == pytest.approx(0.5 * fit + 0.5 * line)


# The published code, where its package is installed. Only the one file is loaded: the packages want a GPU's libraries.


def published(package: str, file: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A file of a package, loaded alone among empty parents."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    path = Path(found.origin).parent / file
    parts = [package, *Path(file).with_suffix("").parts]
    for n in range(1, len(parts)):
        parent = ModuleType(".".join(parts[:n]))
        parent.__path__ = [str(Path(found.origin).parent.joinpath(*parts[1:n]))]
        monkeypatch.setitem(sys.modules, parent.__name__, parent)
    if package == "cache_dit":
        logger = ModuleType("cache_dit.logger")
        logger.init_logger = lambda name: None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "cache_dit.logger", logger)
    spec = importlib.util.spec_from_file_location(".".join(parts), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


RUN = [0, 1, 2, 5, 9, 10]
STEPS, TRUTH = 16, torch.randn(16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def ours(name: str, step: int, run: list[int]) -> torch.Tensor:
    """Our forecast at a step from the values at the steps that ran; positions are steps."""
    known = [k for k in run if k < step]
    weights = PREDICTORS[name].weights(  # type: ignore[index]
        [k / STEPS for k in known], step / STEPS, [k / STEPS for k in range(known[-1] + 1, step)]
    )
    return torch.from_numpy(weights) @ TRUTH[known]


def test_hermite_is_hicaches_scaled_hermite_forecast_also_between_uneven_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    hicache = published("hicache_pp", "hermite.py", monkeypatch)
    state = hicache.hicache_init(num_steps=STEPS, max_order=2)
    for step in range(STEPS):
        state["step"] = step
        if step in RUN:
            state["activated_steps"].append(step)
            hicache.hicache_update_derivatives(state, TRUTH[step])
        else:
            torch.testing.assert_close(
                ours("hermite", step, RUN), hicache.hicache_forecast(state), rtol=1e-9, atol=1e-9
            )


def test_taylorseer_is_cache_dits_of_two_derivatives_also_between_uneven_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs takes no derivative at the first two steps, so it is fed from its third on."""
    seer = published("cache_dit", "caching/cache_contexts/calibrators/taylorseer.py", monkeypatch)
    state, run = seer.TaylorSeerState(n_derivatives=2), [step for step in RUN if step > 1]
    for step in range(STEPS):
        state.mark_step_begin()
        if step in run:
            state.update(TRUTH[step])
        elif step > run[0]:
            torch.testing.assert_close(ours("taylorseer", step, run), state.approximate(), rtol=1e-9, atol=1e-9)


def test_foca_is_cache_dits_after_two_steps_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs takes any two steps for neighbours; ours divides by their distance, so that a line stays a line."""
    foca = published("cache_dit", "caching/cache_contexts/calibrators/foca.py", monkeypatch)
    state = foca.FoCaState()
    for step in range(12):
        state.mark_step_begin()
        if step < 2:
            state.update(TRUTH[step])
        else:
            torch.testing.assert_close(ours("foca", step, [0, 1]), state.approximate(), rtol=1e-9, atol=1e-9)
