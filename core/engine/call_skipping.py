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
from .forecasts import Forecasts
from .gates import Gate, gate_of
from .meter import Meter
from .outputs import detached, prediction, with_prediction
from .recording import Recording

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
        self._forecasts = Forecasts(replace(settings, predictor=self._plan.predictor), horizon, choice.fit, meter.note)
        self._reported: object = None  # what the report's settings were made from
        self._gate: Gate | None = gate_of(settings)
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
        return self._forecasts.nbytes

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
        found = self._continued(repaid=True)
        self._forecasts.passed(self._call)
        return with_prediction(self._template, found)

    def _continued(self, repaid: bool = False) -> Tensor:
        """Return what the known values say of this forward's prediction [rows, ...]."""
        return self._forecasts.continued(self._call, repaid).to(self._dtype)

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
        corrected = self._forecasts.keep(self._call, found, first=self._index == 0)
        if self._gate is not None and self._opens:  # other passes of a step see other conds
            self._gate.ran(self._call.input, found, self._call.noise)
        return None if corrected is None else with_prediction(output, corrected.to(found.dtype))

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
        self._forecasts.forget(keys)

    def close(self) -> None:
        """Free everything, and write what was recorded."""
        self._meter.report.compared = {self._compared[step]: error for step, error in self.surprises.items()}
        if self._recording is not None:
            self._recording.save(self._meter)
            self._recording = None
        self._forecasts.clear()
        self._template = self._gate = None

    def _refuse_reader(self, reader: str) -> None:
        """Run the network at every call if other code reads what it computes (SAG's attention maps)."""
        if reader and self._active:
            self._meter.decline(
                "call skipping", f"{reader} reads what the model computes inside, so it runs at every step"
            )
            self._active = False
            self._meter.report.estimated_error = None

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
        """Return whether a forward can be forecast."""
        return self._template is not None and self._forecasts.known(call)

    def _as_it_ran(self) -> dict[str, Any]:
        """Return the settings as they ran: the keys where they are known, and the space."""
        keys = self._plan.keys
        known: dict[str, Any] = {"keys": keys, "calls": 0, "every": 0, "rule": "even"} if keys else {}
        if not self._forecasts.fitted:
            known |= {"profile": "", "space": self._forecasts.space, "predictor": self._forecasts.predictor}
        return asdict(replace(self._settings, **known))

    def _counted(self, runs: bool) -> bool:
        """Count the call; one of which any forward runs is a call that runs."""
        skipped = self._count.add(self._index, self._step, runs)
        how = self._forecasts.how
        ran = (self._plan.keys, how)
        if skipped and ran != self._reported:
            self._reported = ran
            self._meter.report.chosen = {"kind": CallSkip.kind, **self._as_it_ran()}
            self._meter.report.beside = Recipe.of(self.beside).plain()
        self._meter.count_forecasts(skipped, how if skipped else "")
        return runs
