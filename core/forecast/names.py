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
