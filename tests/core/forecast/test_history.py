"""The known values of one stream: which are kept, and from which a position can be forecast."""

from __future__ import annotations

import pytest
import torch

from skipstone.core.forecast.history import History, weighted
from skipstone.core.forecast.predictors import PREDICTORS
from skipstone.core.forecast.space import RAW, Noise


def history_of(predictor: str, *known: tuple[float, float]) -> History:
    """A history of one number per position."""
    history = History(PREDICTORS[predictor])  # type: ignore[index]
    for position, value in known:
        history.add(position, RAW, torch.zeros(1, 1), torch.full((1, 1), value))
    return history


def at(history: History, position: float) -> float:
    """The forecast at a position."""
    return float(history.forecast(position, RAW, torch.zeros(1, 1)))


def test_a_value_replaces_those_at_its_position_and_beyond() -> None:
    history = history_of("line", (0.0, 0.0), (0.1, 1.0), (0.3, 9.0), (0.2, 2.0))
    assert len(history) == 2 and at(history, 0.4) == pytest.approx(4.0)
    history.add(0.2, RAW, torch.zeros(1, 1), torch.full((1, 1), 3.0))
    assert at(history, 0.3) == pytest.approx(5.0)


def test_only_as_many_values_are_kept_as_the_predictor_uses() -> None:
    for name, kept in (("hold", 1), ("line", 2), ("taylor3", 4), ("spectrum", 9)):
        history = history_of(name, *((0.1 * k, float(k)) for k in range(9)))
        assert len(history) == kept and history.nbytes == 4 * kept


def test_a_position_before_the_last_two_values_is_not_reached() -> None:
    history = history_of("line", (0.1, 0.0), (0.2, 1.0), (0.4, 2.0))
    assert [history.reaches(p) for p in (0.15, 0.2, 0.3, 0.4, 0.9)] == [False, True, True, True, True]
    assert not history_of("line").reaches(0.5)


def test_a_level_that_is_forecast_twice_counts_once() -> None:
    once, twice = (history_of("foca", (0.0, 0.0), (0.1, 1.0)) for _ in range(2))
    once.passed(0.2)
    for _ in range(3):
        twice.passed(0.2)
    assert at(once, 0.3) == at(twice, 0.3) == pytest.approx(3.0)
    assert at(twice, 0.2) == pytest.approx(2.0)


def test_equal_values_make_exactly_that_value() -> None:
    value = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weighted([value, value.clone(), value.clone()], [1.7, -3.1, 2.4]), value)


def test_inputs_and_outputs_are_left_as_they_are() -> None:
    x, out, space = torch.ones(1, 4, 2, 2), torch.full((1, 8, 2, 2), 2.0), Noise(0.6, 0.8, "eps").affine("x0")
    assert space is not None
    history = History(PREDICTORS["hold"])
    history.add(0.1, space, x, out)
    found = history.forecast(0.2, space, x)
    assert torch.equal(x, torch.ones_like(x)) and torch.equal(out, torch.full_like(out, 2.0))
    torch.testing.assert_close(found, out)
