"""Spaces: each follows from input and output at a known noise level, and the output follows from each."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipstone.core.forecast.names import SPACES, Space
from skipstone.core.forecast.space import Noise, Predicts

VP: list[Predicts] = ["eps", "v", "x0"]
FLOW: list[Predicts] = ["flow", "-flow"]
X0, EPS = 0.7, -1.3


def output(at: Noise) -> float:
    """What a network that knows picture and noise predicts."""
    angle_free = {"eps": EPS, "x0": X0, "flow": EPS - X0, "-flow": X0 - EPS}
    return angle_free[at.predicts] if at.predicts != "v" else at.alpha * EPS - at.sigma * X0


def levels(sigma: float) -> list[Noise]:
    """That noise level for all kinds of networks."""
    vp = [Noise((1 - sigma**2) ** 0.5, sigma, predicts) for predicts in VP]
    return [*vp, *(Noise.of_flow(sigma, predicts) for predicts in FLOW)]


@given(sigma=st.floats(0.02, 0.98))
def test_noise_picture_and_velocity_are_found_in_any_output(sigma: float) -> None:
    for at in levels(sigma):
        x, o = at.alpha * X0 + at.sigma * EPS, output(at)
        truth = {"eps": EPS, "x0": X0, "raw": o, "difference": o - x}
        truth["v"] = EPS - X0 if at.flow else at.alpha * EPS - at.sigma * X0
        for space in SPACES:
            affine = at.affine(space)
            assert affine is not None
            assert affine.of(x, o) == pytest.approx(truth[space], abs=1e-9), (at, space)
            assert not affine.invertible or affine.output(x, truth[space]) == pytest.approx(o, abs=1e-9)


@pytest.mark.parametrize(("predicts", "space"), product([*VP, *FLOW], SPACES))
def test_at_the_ends_a_space_is_undefined_or_still_true(predicts: Predicts, space: Space) -> None:
    for sigma in (0.0, 1.0):
        at = Noise.of_flow(sigma, predicts) if predicts in FLOW else Noise(1 - sigma, sigma, predicts)
        affine = at.affine(space)
        if affine is not None and affine.invertible:
            x, o = at.alpha * X0 + at.sigma * EPS, output(at)
            assert affine.output(x, affine.of(x, o)) == pytest.approx(o)


def test_a_variance_preserving_level_follows_from_its_standard_deviation() -> None:
    scaled, plain = Noise.of_karras(0.75, "eps"), Noise.of_karras(0.75, "eps", scaled=False)
    assert (scaled.alpha, scaled.sigma) == pytest.approx((0.8, 0.6))
    assert (plain.alpha, plain.sigma) == (1.0, 0.75)
    affine = plain.affine("x0")
    assert affine is not None and affine.of(2.0, 1.0) == pytest.approx(2.0 - 0.75 * 1.0)
