"""Which calls of a run ran, and which were forecast."""

from __future__ import annotations

from typing import NamedTuple

from ..plan.call_plan import CallPlan
from ..plan.run import Horizon
from .meter import Meter

_NOISY = "this sampler adds noise, so fewer steps may do as well; samplers without noise gain more"
_CONTINUES = (
    "this sampler continues outputs itself: at so few calls, fewer steps may do as well; Euler and DDIM gain more"
)
_FEW = 0.45
"""Share of the steps below which that is said."""


class _Evaluation(NamedTuple):
    """A noise level in one step: the number of its call, and that of the step."""

    call: int
    step: int


class CallCount:
    """Counts the calls that ran and those that were forecast, and notes where fewer steps may do as well.

    Args:
        horizon: what is known of the run.
        plan: which steps run.
        meter: where notes go.

    Example:
        >>> from skipstone.core.recipe.call_skip import CallSkip
        >>> count = CallCount(Horizon(), CallPlan(CallSkip(every=2), Horizon()), Meter())
        >>> [count.add(call, call, runs=call % 2 == 0) for call in range(4)], count.calls
        ([0, 1, 1, 2], 4)
    """

    def __init__(self, horizon: Horizon, plan: CallPlan, meter: Meter) -> None:
        """Before the first call."""
        self._horizon, self._plan, self._meter = horizon, plan, meter
        self._ran: set[_Evaluation] = set()
        self._skipped: set[_Evaluation] = set()

    @property
    def calls(self) -> int:
        """Number of calls so far. Two steps' evaluations of one noise level (Heun) are two of them."""
        return len(self._ran | self._skipped)

    def add(self, call: int, step: int, runs: bool) -> int:
        """Count a forward; a call of which any forward runs is a call that runs. Return the number of those that were forecast.

        Args:
            call: number of the call.
            step: number of its step.
            runs: whether the network runs in this forward.
        """
        at = _Evaluation(call, step)
        if runs:
            self._ran.add(at)
            self._skipped.discard(at)
        elif at not in self._ran:
            self._skipped.add(at)
        if self._skipped and self._horizon.stochastic:
            self._meter.note(_NOISY)
        if self._skipped and self._horizon.multistep and self._plan.share < _FEW:
            self._meter.note(_CONTINUES)
        return len(self._skipped)
