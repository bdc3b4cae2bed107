"""The known outputs of one run's streams, and the forecasts from them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..forecast.corrected import CorrectedHistory
from ..forecast.fitted import Fit, FittedHistory
from ..forecast.history import History, fits
from ..forecast.names import LINES, CallPredictorName, Space, described
from ..forecast.predictors import predictor_of
from ..forecast.space import RAW, Affine
from ..plan.run import Horizon
from ..recipe.call_skip import CallSkip
from .call import Call

_NOT_CORRECTED = "a straight line: forecasts of the noise alone are corrected, with Euler, DDIM and DPM++ 2M"


class Forecasts:
    """The known outputs of one run's streams, and the forecasts from them.

    Args:
        settings: what is forecast, and how; the predictor is chosen (:attr:`CallPlan.predictor`).
        horizon: what is known of the run.
        fit: the weights of the forecasts, where they are fitted to a profile.
        note: takes a line for the report.

    Attributes:
        fitted: whether they were fitted.
        predictor: how values are continued, as it is done in this run.
        space: what is forecast, as it is done in this run.

    Example:
        >>> from .clock import Stream
        >>> known = Forecasts(CallSkip(space="raw", predictor="line"), Horizon((900.0, 600.0, 300.0)))
        >>> call = Call(900.0, (8, 8), (Stream("cond", 1),), input=torch.zeros(1, 4, 8, 8))
        >>> known.keep(call, torch.ones(1, 4, 8, 8), first=True) is None, known.nbytes
        (True, 1024)
    """

    def __init__(
        self, settings: CallSkip, horizon: Horizon, fit: Fit | None = None, note: Callable[[str], Any] = str
    ) -> None:
        """Start empty."""
        self._horizon, self._fit = horizon, fit
        given: CallPredictorName = settings.predictor  # type: ignore[assignment]
        self._continues = predictor_of(given)
        self.predictor: CallPredictorName = "line" if given in LINES else given
        self.space: Space = _space_of(settings, horizon)
        self._space, self.fitted = self.space, False
        self._corrects = settings.predictor == "corrected" and self._space == "eps" and bool(horizon.levels)
        if settings.predictor == "corrected" and not self._corrects:
            note(_NOT_CORRECTED)
        self._histories: dict[Hashable, History] = {}
        self._first: set[Hashable] = set()  # streams of the first call

    @property
    def how(self) -> str:
        """What is forecast and how, for the report."""
        return "fitted to the profile" if self.fitted else described(self.predictor, self.space)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(history.nbytes for history in self._histories.values())

    def known(self, call: Call) -> bool:
        """Return whether all streams have the values that a forecast needs. One that enters later needs two for a line.

        Args:
            call: the forward.
        """
        position = self._position(call)
        for key in call.keys():
            history = self._histories.get(key)
            space = self._affine(call, history.raw) if history else None
            if history is None or not history.reaches(position):
                return False
            if len(history) < (1 if key in self._first else min(2, self._continues.needs)):
                return False
            if space is None or not space.invertible:
                return False
        return True

    def continued(self, call: Call, repaid: bool = False) -> Tensor:
        """Return what the known values say of a forward's prediction [rows, ...].

        Args:
            call: the forward, of which all is :meth:`known`.
            repaid: whether it is for the sampler, and what that continues of the last correction is taken back.
        """
        position, parts = self._position(call), []
        for key, rows in _parted(call):
            history, x = self._histories[key], torch.zeros(0) if call.input is None else call.input[rows]
            space = self._affine(call, history.raw) or RAW
            found = history.forecast(position, space, x)
            parts.append(history.repaid(position, space, x, found) if repaid else found)
        return torch.cat(parts)

    def passed(self, call: Call) -> None:
        """Register a forward that was forecast.

        Args:
            call: the forward.
        """
        for key in call.keys():
            self._histories[key].passed(self._position(call))

    def keep(self, call: Call, found: Tensor, first: bool) -> Tensor | None:
        """Store the prediction of a forward that ran, and return the corrected one, if there is one.

        Args:
            call: the forward.
            found: its prediction [rows, ...].
            first: whether it belongs to the first call of the run.
        """
        known = [self._histories.get(key) for key in call.keys()]
        correct = all(one is not None and one.corrects(self._position(call)) for one in known)  # they moved x together
        given = [self._add(call, key, found[rows], rows, correct, first) for key, rows in _parted(call)]
        corrected = [one for one in given if one is not None]
        return torch.cat(corrected) if len(corrected) == len(given) else None

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the values of streams that left the run.

        Args:
            keys: of the streams.
        """
        for key in keys:
            self._histories.pop(key, None)

    def clear(self) -> None:
        """Free everything."""
        self._histories.clear()

    def _position(self, call: Call) -> float:
        return self._horizon.positions.at(call.timestep)

    def _add(self, call: Call, key: Hashable, output: Tensor, rows: slice, correct: bool, first: bool) -> Tensor | None:
        """Store one stream's true value. Where its space is not defined, the stream begins again."""
        x = None if call.input is None else call.input[rows].detach()
        known = self._histories.get(key)
        raw = known.raw if known else self._space == "raw" or call.noise is None or not fits(output, x)
        space = self._affine(call, raw)
        if space is None:
            self._histories.pop(key, None)
            return None
        if first:
            self._first.add(key)
        history = self._histories.setdefault(key, self._history(raw, fits(output, x)))
        return history.add(self._position(call), space, x if x is not None else output, output, correct)

    def _history(self, raw: bool, fitting: bool) -> History:
        """Return the history of a new stream: with the profile's weights, if there are any and inputs are like outputs, or
        corrected, where the sampler's steps are known."""
        if fitting and self._fit is not None:
            self.fitted = True
            return FittedHistory(self._fit)
        if fitting and not raw and self._corrects:
            self.predictor = "corrected"
            places = map(self._horizon.positions.at, self._horizon.timesteps or ())
            return CorrectedHistory(tuple(places), self._horizon.levels, self._horizon.slopes)
        return History(self._continues, raw)

    def _affine(self, call: Call, raw: bool) -> Affine | None:
        """Return how a call's value in the chosen space follows from input and output; None where it does not."""
        if raw:
            self.space = "raw"
            return RAW
        return call.noise.affine(self._space) if call.noise is not None else None


def _parted(call: Call) -> Iterator[tuple[Hashable, slice]]:
    """Yield the key and the rows of each stream."""
    at = 0
    for key, stream in zip(call.keys(), call.streams, strict=True):
        yield key, slice(at, at + stream.rows)
        at += stream.rows


def _space_of(settings: CallSkip, horizon: Horizon) -> Space:
    """Return what is forecast. The noise, or the picture where the sampler adds noise of its own."""
    if settings.space == "auto":
        return "x0" if horizon.stochastic else "eps"
    return settings.space  # type: ignore[return-value]
