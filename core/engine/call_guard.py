"""The guard of call skipping: it compares forecasts with the truth where the network runs, and runs more of a run that is unlike
its profile."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..plan.call_plan import CallPlan
from .meter import Meter
from .outputs import largest_error

SLACK = 1.25
"""A one-call error this many times the profile's bound means that the run is unlike the profile's."""
_UNLIKE = "unlike the profile"


class CallGuard:
    """Compares forecasts with the truth in one run.

    Args:
        bounds: step -> one-call error that the profile's runs stay under; empty without a profile.
        plan: the steps that run; the guard adds to them.
        meter: where notes go.

    Example:
        >>> from ..plan.run import Horizon
        >>> from ..recipe.call_skip import CallSkip
        >>> guard = CallGuard({2: 0.1}, CallPlan(CallSkip(keys=(0, 2, 5)), Horizon(tuple(range(6, 0, -1)))), Meter())
        >>> [guard.compares(call) for call in (0, 2)]
        [False, True]
        >>> guard.compare(2, torch.tensor([[1.5]]), torch.tensor([[1.0]]))
        >>> guard.surprises, guard._plan.keys
        ({2: 0.5}, (0, 2, 3, 5))
    """

    def __init__(self, bounds: Mapping[int, float], plan: CallPlan, meter: Meter) -> None:
        """Begin a run."""
        self._bounds, self._plan, self._meter = bounds, plan, meter
        self._errors: dict[int, Tensor] = {}  # numbers on the device, which is not waited for
        self._added: list[int] = []
        self._last_ran = self._last_bad = -1
        self._after_gap = False

    @property
    def surprises(self) -> dict[int, float]:
        """Step -> relative error of the output that would have been forecast where the network ran after a skipped step:
        the largest of the rows. Waits for the device once."""
        errors = torch.stack([*self._errors.values()]).tolist() if self._errors else []
        return dict(zip(self._errors, errors, strict=True))

    def compares(self, call: int) -> bool:
        """Return whether a forward that ran has a forecast to compare: its call is the first after a skipped one.

        Args:
            call: number of the call; later forwards of one call are compared too.
        """
        if self._last_ran != call:
            self._after_gap, self._last_ran = self._last_ran < call - 1, call
        return self._after_gap

    def compare(self, step: int, forecast: Tensor, truth: Tensor) -> None:
        """Register how far a forecast is from the truth; if that is beyond the profile's bound, run a step of the next gap.

        Args:
            step: the step.
            forecast: what would have been forecast [rows, ...].
            truth: what the network returned [rows, ...].
        """
        error, known = largest_error(forecast, truth), self._errors.get(step)
        self._errors[step] = error if known is None else torch.maximum(error, known)
        bound = self._bounds.get(step)
        if bound is None or step in (*self._added, self._last_bad) or float(self._errors[step]) <= SLACK * bound:
            return
        self._last_bad = step
        if (extra := self._plan.add_after(step)) is None:
            return
        self._added.append(extra)
        self._meter.report.estimated_error = None
        self._meter.replace_note(_UNLIKE, f"{_UNLIKE} at step {step}: {len(self._added)} more run")
