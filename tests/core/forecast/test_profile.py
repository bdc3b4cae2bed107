"""Profiles: what they hold, their file, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_denoiser import ToyDenoiser

from skipstone.core.calibrate.denoiser import Trajectory
from skipstone.core.calibrate.profiling import dense, profile, sensitivity
from skipstone.core.errors import ProfileError
from skipstone.core.forecast.profile import HeldOut, Profile, gram_of
from skipstone.core.forecast.shortest_path import best_keys, one_call_costs

PLAN = HeldOut((0, 3, 7, 11), "eps", "line", tuple(0.01 * k for k in range(1, 20)), (0.1, 0.2, 0.3), "even")


@pytest.fixture(scope="module")
def known() -> Profile:
    """The toy denoiser's profile with one plan."""
    return replace(profile(ToyDenoiser(), range(4), batch=2), plans=(PLAN,))


def test_a_profile_survives_its_file(known: Profile, tmp_path: Path) -> None:
    known.save(tmp_path / "a.safetensors")
    back = Profile.load(tmp_path / "a.safetensors")
    assert np.allclose(back.gram, known.gram, rtol=1e-6)
    plain = np.zeros_like(known.gram)
    assert {**vars(replace(back, gram=plain)), "gram": 0} == {**vars(replace(known, gram=plain)), "gram": 0}
    assert (tmp_path / "a.safetensors").stat().st_size < 20_000


@pytest.mark.parametrize("length", [0, 7, 300, 2000])
def test_a_truncated_file_is_refused_in_one_line(known: Profile, tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.safetensors"
    known.save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ProfileError, match="skipstone profile") as caught:
        Profile.load(path)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_a_profile_of_another_network_is_refused(known: Profile) -> None:
    with pytest.raises(ProfileError, match="of another network"):
        known.fits("5 weights")


def test_the_gram_matrix_is_that_of_the_run(known: Profile) -> None:
    denoiser = ToyDenoiser()
    at, inputs, outputs = denoiser.begin([0]), [], []
    for call in range(12):
        inputs.append(at.x)
        outputs.append(denoiser.predict(at, call))
        at = denoiser.advance(at, outputs[-1], call)
    final, gram = dense(denoiser, [0])  # type: ignore[arg-type]
    assert torch.equal(final, at.x)
    assert np.allclose(gram, gram_of(torch.stack(inputs), torch.stack(outputs)))
    assert gram[1, 14] == pytest.approx(float((inputs[1] * outputs[2]).mean()), rel=1e-5)


@pytest.mark.parametrize(("share", "place"), [(0.5, 9), (0.9, 17), (0.95, 18)])
def test_a_quantile_is_conformal(share: float, place: int) -> None:
    assert PLAN.quantile(share) == PLAN.errors[place]


def test_too_few_noises_promise_nothing() -> None:
    assert HeldOut((0,), "eps", "line", (0.1,) * 8).quantile(0.9) == math.inf


@given(st.integers(2, 11), st.sampled_from(["eps", "x0"]), st.booleans())
def test_the_shortest_path_is_the_cheapest_of_all_choices_of_keys(calls: int, space: str, weighted: bool) -> None:
    from itertools import combinations

    costs = _costs(space)
    weights = np.linspace(1, 3, 12) if weighted else np.ones(12)

    def cost(keys: tuple[int, ...]) -> float:
        total = 0.0
        for place, last in enumerate(keys):
            following = keys[place + 1] if place + 1 < len(keys) else 12
            before = keys[place - 1] if place else 12
            total += sum(weights[k] * math.sqrt(costs[before, last, k]) for k in range(last + 1, following))
        return total

    found = best_keys(costs, calls, weights)
    assert len(found) == calls and found[0] == 0 and found[-1] == 11
    inner = combinations(range(1, 11), calls - 2)
    assert cost(found) == pytest.approx(min(cost((0, *keys, 11)) for keys in inner))


def _costs(space: str, made: dict[str, np.ndarray] = {}) -> np.ndarray:  # noqa: B006
    if space not in made:
        made[space] = one_call_costs(profile(ToyDenoiser(), range(2)), space, "line")  # type: ignore[arg-type]
    return made[space]


def test_one_call_costs_are_the_errors_of_forecasts_on_the_dense_path() -> None:
    denoiser = ToyDenoiser()
    at, x, o = denoiser.begin([0]), [], []
    for call in range(12):
        x.append(at.x)
        o.append(denoiser.predict(at, call))
        at = denoiser.advance(at, o[-1], call)
    known = profile(denoiser, [0])  # type: ignore[arg-type]
    spaces = [denoiser.noise(k).affine("x0") for k in (2, 4, 6)]
    q = [s.of(x[k], o[k]) for s, k in zip(spaces, (2, 4, 6), strict=True) if s]
    assert spaces[2] is not None
    forecast = spaces[2].output(x[6], 2 * q[1] - q[0])
    error = float((forecast - o[6]).square().mean())
    assert one_call_costs(known, "x0", "line")[2, 4, 6] == pytest.approx(error, rel=1e-4)


class Linear(ToyDenoiser):
    """Euler steps of a network that returns a tenth of its input: what an error does can be written down."""

    def predict(self, at: Trajectory, call: int) -> torch.Tensor:
        """A tenth of x, and a little that differs from call to call."""
        return at.x / 10 + call

    def advance(self, at: Trajectory, output: torch.Tensor, call: int) -> Trajectory:
        """A step of 1 / 12."""
        return Trajectory(at.x - output / 12)


def test_the_sensitivity_of_a_call_is_what_an_error_there_does_to_the_end() -> None:
    found = sensitivity(Linear(steps=12), seeds=range(3), batch=2)
    expected = [(1 - 1 / 120) ** (11 - call) / 12 for call in range(12)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_path_by_sensitivity_avoids_errors_where_they_count(known: Profile) -> None:
    costs, late = one_call_costs(known, "eps", "line"), np.linspace(0.01, 1, known.steps) ** 4
    plain = best_keys(costs, 5)
    by_sensitivity = best_keys(
        costs, 5, replace(known, sensitivity=late).path_weights()["shortest path by sensitivity"]
    )
    assert sum(by_sensitivity) > sum(plain)
