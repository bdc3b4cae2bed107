"""Names of what is forecast and how, apart from the mathematics, so that settings load no library."""

from __future__ import annotations

from typing import Literal, get_args

Space = Literal["raw", "v", "eps", "x0", "difference"]
"""raw: the output as it is. difference: what the output adds to the input."""
SPACES: tuple[Space, ...] = get_args(Space)

PredictorName = Literal["line", "hold", "taylor2", "taylor3", "taylorseer", "hermite", "foca", "spectrum"]
PREDICTOR_NAMES: tuple[PredictorName, ...] = get_args(PredictorName)

CallPredictorName = PredictorName | Literal["fitted", "corrected"]
"""How outputs of whole calls are forecast: fitted has weights of a profile's, corrected puts right what a line missed."""
CALL_PREDICTOR_NAMES: tuple[CallPredictorName, ...] = (*PREDICTOR_NAMES, "fitted", "corrected")

LINES: tuple[CallPredictorName, ...] = ("line", "fitted", "corrected")
"""Predictors that are a straight line where they have no more to go by."""


def described(predictor: CallPredictorName, space: Space) -> str:
    """Return how outputs are forecast, in words for reports.

    Args:
        predictor: how values are continued.
        space: what is forecast.

    Example:
        >>> described("line", "eps"), described("corrected", "eps"), described("fitted", "eps")
        ('line on eps', 'corrected line on eps', 'fitted')
    """
    if predictor == "fitted":
        return "fitted"
    return f"{'corrected line' if predictor == 'corrected' else predictor} on {space}"
