"""Call skipping in one run: decides at which calls the network runs, and forecasts its output at the others.

It acts on whole forwards, above all parts: at a skipped call no part does anything, and at the others they act as if the
skipped calls were not there.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..forecast.corrected import CorrectedHistory
from ..forecast.fitted import FittedHistory
from ..forecast.history import History, fits
from ..forecast.names import LINES, CallPredictorName, Space
from ..forecast.predictors import predictor_of
from ..forecast.space import RAW, Affine
from ..models import unwrapped
from ..models.family import identity
from ..models.readers import Watch, foreign_hook
from ..plan.call_choice import Choice
from ..plan.call_plan import CallPlan
from ..plan.run import Horizon
from ..recipe.call_skip import CallSkip
from ..recipe.recipe import Recipe
from .call import NO_CALL, Call
from .call_count import CallCount
from .call_guard import CallGuard
from .clock import Tick
from .gates import Gate, gate_of
from .meter import Meter
from .outputs import detached, prediction, with_prediction
from .recording import Recording

_NOT_CORRECTED = "a straight line: forecasts of the noise alone are corrected, with samplers such as Euler and DDIM"
_NO_ROWS = "the model returns no tensor with a row for each input, so nothing can be forecast from it"


class CallSkipping:
    """Call skipping in one run.

    Args:
        choice: which calls run, and how the others are forecast.
        horizon: what is known of the run.
        meter: where counts and notes go.
        network: the network; where other code reads what it computes inside, it runs at every call.
        makers: one per part that the choice adds at the calls that run.

    Raises :class:`RecipeError` for settings that do not fit the run.

    Example:
        >>> from .clock import Stream
        >>> run = CallSkipping(Choice(CallSkip(keys=(0, 1))), Horizon((900.0, 600.0, 300.0)), Meter())
        >>> for index, t in enumerate((900.0, 600.0, 300.0)):
        ...     call = Call(t, (8, 8), (Stream("cond", 1),), input=torch.zeros(1, 4, 8, 8))
        ...     if run.begin(Tick(index, new=True), call):
        ...         run.keep(torch.full((1, 4, 8, 8), float(index)))
        >>> float(run.forecast().mean())
        2.0
    """

    def __init__(
        self,
        choice: Choice,
        horizon: Horizon,
        meter: Meter,
        network: nn.Module | None = None,
        makers: Sequence[Any] = (),
    ) -> None:
        """Choose the calls that run."""
        self.makers, self.beside = makers, choice.beside
        self._settings = settings = choice.settings
        self._meter, self._horizon, self._choice = meter, horizon, choice
        self._plan, self._active = CallPlan(settings, horizon), True
        self._guard = CallGuard(choice.bounds, self._plan, meter)
        named = identity(network) if network is not None and choice.record else ""
        self._compared: dict[int, int] = {}  # step -> number of its call in the report
        self._recording = Recording(choice.record, named, horizon.timesteps or ()) if choice.record else None
        meter.report.estimated_error, meter.report.allowed_error = choice.promise, choice.allowed
        if choice.why:
            meter.note(choice.why)
        if network is not None:
            self._refuse_reader(next(filter(None, map(foreign_hook, unwrapped(network).children())), ""))
        self._watch = Watch(network, (), {}) if network is not None and self._active else None
        self._predictor = predictor_of(settings.predictor)
        self._predictor_name: CallPredictorName = "line" if settings.predictor in LINES else settings.predictor
        self._fitted = False
        self._space: Space = _space_of(settings, horizon)
        self._places: tuple[float, ...] = self._places_of_steps(settings)
        self._said: str = self._space
        self._reported: object = None  # what the report's settings were made from
        self._gate: Gate | None = gate_of(settings)
        self._histories: dict[Hashable, History] = {}
        self._first: set[Hashable] = set()  # streams of the first call
        self._template: Any = None
        self._dtype: torch.dtype | None = None
        self._decided: dict[int, bool] = {}
        self._count = CallCount(horizon, self._plan, meter)
        self._call, self._index, self._opens = NO_CALL, -1, False
        self._step = -1

    @property
    def horizon_of_runs(self) -> Horizon:
        """What is known ahead of the calls that run."""
        return self._plan.horizon_of_runs() if self._active else self._horizon

    @property
    def calls(self) -> int:
        """Number of calls so far. Two steps' evaluations of one noise level (Heun) are two of them."""
        return self._count.calls

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(history.nbytes for history in self._histories.values())

    def begin(self, tick: Tick, call: Call) -> bool:
        """Return whether the network runs in this forward; if not, :meth:`forecast` has its output.

        Args:
            tick: the call that the forward belongs to.
            call: the forward.
        """
        self._call, self._index = call, tick.index
        if not self._active:
            return self._counted(True)
        if tick.surprise:
            self._plan.abandon()
            self._meter.report.estimated_error = None
        self._step = step = call.step if call.step is not None else tick.index // self._horizon.stages
        self._opens = step not in self._decided
        if self._opens or tick.surprise:
            self._decided = {step: self._runs(step, call) or tick.surprise}
        return self._counted(self._decided[step] or not self._all_known(call))

    def forecast(self) -> Any:
        """Return the output of the forward that :meth:`begin` decided not to run, in the form of the network's own."""
        found, position = self._continued(), self._position
        for key in self._call.keys():
            self._histories[key].passed(position)
        return with_prediction(self._template, found)

    def _continued(self) -> Tensor:
        """Return what the known values say of this forward's prediction [rows, ...]."""
        position, parts, at = self._position, [], 0
        for key, stream in zip(self._call.keys(), self._call.streams, strict=True):
            rows = self._call.input[at : at + stream.rows] if self._call.input is not None else torch.zeros(0)
            at += stream.rows
            history = self._histories[key]
            parts.append(history.forecast(position, self._affine(history.raw) or RAW, rows))
        return torch.cat(parts).to(self._dtype)

    def failed(self) -> None:
        """Count the call that could not be forecast as one that ran."""
        self._counted(True)

    def keep(self, output: Any) -> Any:
        """Store the output of the forward that ran. Return what the sampler gets in its place, in the same form; None for the
        output itself.

        Args:
            output: what the network returned; None if it failed.
        """
        if self._watch is not None:
            self._refuse_reader(self._watch.stores())
            self._watch = None
        found = None if output is None else prediction(output)
        if self._recording is not None and found is not None:
            self._recording.add(self._index, self._call, found)
        if output is None or not self._active or self._plan.keys == tuple(range(self._plan.steps or 0)):
            return None
        if found is None or found.shape[:1] != (self._call.rows,):
            self._meter.decline("call skipping", _NO_ROWS)
            return None
        found = found.detach()
        self._compare(found)
        self._template, self._dtype = detached(output), found.dtype
        at, x = 0, self._call.input
        given: list[Tensor | None] = []
        known = [self._histories.get(key) for key in self._call.keys()]
        correct = all(
            one is not None and one.corrects(self._position) for one in known
        )  # they moved the latent together
        for key, stream in zip(self._call.keys(), self._call.streams, strict=True):
            rows = slice(at, at + stream.rows)
            at += stream.rows
            given.append(self._add(key, found[rows], None if x is None else x[rows].detach(), correct))
        if self._gate is not None and self._opens:  # other passes of a step see other conds
            self._gate.ran(self._call.input, found, self._call.noise)
        corrected = [one for one in given if one is not None]
        return with_prediction(output, torch.cat(corrected).to(found.dtype)) if len(corrected) == len(given) else None

    def _compare(self, truth: Tensor) -> None:
        """Compare the forecast with the truth, in each forward of a call after a skipped one."""
        if not self._guard.compares(self._index) or not self._all_known(self._call):
            return
        self._compared.setdefault(self._step, self._meter.report.calls - 1)
        self._guard.compare(self._step, self._continued(), truth)

    @property
    def surprises(self) -> dict[int, float]:
        """See :attr:`.call_guard.CallGuard.surprises`."""
        return self._guard.surprises

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the values of streams that left the run."""
        for key in keys:
            self._histories.pop(key, None)

    def close(self) -> None:
        """Free everything, and write what was recorded."""
        self._meter.report.compared = {self._compared[step]: error for step, error in self.surprises.items()}
        if self._recording is not None:
            self._recording.save(self._meter)
            self._recording = None
        self._histories.clear()
        self._template = self._gate = None

    def _refuse_reader(self, reader: str) -> None:
        """Run the network at every call if other code reads what it computes (SAG's attention maps)."""
        if reader and self._active:
            self._meter.decline(
                "call skipping", f"{reader} reads what the model computes inside, so it runs at every step"
            )
            self._active = False
            self._meter.report.estimated_error = None

    @property
    def _position(self) -> float:
        return self._horizon.positions.at(self._call.timestep)

    def _runs(self, step: int, call: Call) -> bool:
        if self._plan.runs(step, call.last) or not self._horizon.inside(self._settings, call.timestep):
            return True
        if self._gate is None or call.input is None:
            return False
        if self._gate.needs_noise and call.noise is None:
            self._meter.decline(
                "call skipping", f"{self._settings.rule} needs the noise levels, which are not known here"
            )
        return self._gate.opens(call.input, call.noise)

    def _all_known(self, call: Call) -> bool:
        """Return whether all streams have the values that a forecast needs. One that enters later needs two for a line."""
        position = self._position
        for key in call.keys():
            history = self._histories.get(key)
            space = self._affine(history.raw) if history else None
            if history is None or not history.reaches(position):
                return False
            if len(history) < (1 if key in self._first else min(2, self._predictor.needs)):
                return False
            if space is None or not space.invertible:
                return False
        return self._template is not None

    def _add(self, key: Hashable, output: Tensor, x: Tensor | None, correct: bool) -> Tensor | None:
        """Store a true value, and return the corrected one, if there is one. Where its space is not defined, the stream begins
        again."""
        known = self._histories.get(key)
        raw = known.raw if known else self._space == "raw" or self._call.noise is None or not fits(output, x)
        space = self._affine(raw)
        if space is None:
            self._histories.pop(key, None)
            return None
        if self._index == 0:
            self._first.add(key)
        history = self._histories.setdefault(key, self._history(raw, fits(output, x)))
        return history.add(self._position, space, x if x is not None else output, output, correct)

    def _history(self, raw: bool, fitting: bool) -> History:
        """Return the history of a new stream: with the profile's weights, if there are any and inputs are like outputs, or
        corrected, where the sampler's steps are known."""
        if fitting and self._choice.fit is not None:
            self._fitted = True
            return FittedHistory(self._choice.fit)
        if fitting and not raw and self._places:
            self._predictor_name = "corrected"
            return CorrectedHistory(self._places, self._horizon.levels)
        return History(self._predictor, raw)

    def _places_of_steps(self, settings: CallSkip) -> tuple[float, ...]:
        """Return the positions of the steps, if what is forecast at them can be corrected."""
        if settings.predictor != "corrected":
            return ()
        if self._space != "eps" or not self._horizon.levels:
            self._meter.note(_NOT_CORRECTED)
            return ()
        return tuple(map(self._horizon.positions.at, self._horizon.timesteps or ()))

    def _affine(self, raw: bool) -> Affine | None:
        """Return how this call's value in the chosen space follows from input and output; None where it does not."""
        if raw:
            self._said = "raw"
            return RAW
        return self._call.noise.affine(self._space) if self._call.noise is not None else None

    def _as_it_ran(self) -> dict[str, Any]:
        """Return the settings as they ran: the keys where they are known, and the space."""
        keys = self._plan.keys
        known: dict[str, Any] = {"keys": keys, "calls": 0, "every": 0, "rule": "even"} if keys else {}
        if not self._fitted:
            known |= {"profile": "", "space": self._said, "predictor": self._predictor_name}
        return asdict(replace(self._settings, **known))

    def _counted(self, runs: bool) -> bool:
        """Count the call; one of which any forward runs is a call that runs."""
        skipped = self._count.add(self._index, self._step, runs)
        how = "fitted to the profile" if self._fitted else f"{self._predictor_name} on {self._said}"
        ran = (self._plan.keys, self._fitted, self._said)
        if skipped and ran != self._reported:
            self._reported = ran
            self._meter.report.chosen = {"kind": CallSkip.kind, **self._as_it_ran()}
            self._meter.report.beside = Recipe.of(self.beside).plain()
        self._meter.count_forecasts(skipped, how if skipped else "")
        return runs


def _space_of(settings: CallSkip, horizon: Horizon) -> Space:
    """Return what is forecast. The noise, or the picture where the sampler adds noise of its own."""
    if settings.space == "auto":
        return "x0" if horizon.stochastic else "eps"
    return settings.space  # type: ignore[return-value]
