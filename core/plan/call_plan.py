"""Chooses the steps at which the network runs, for call skipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ..errors import RecipeError
from ..forecast.names import CallPredictorName
from ..recipe.call_skip import CallSkip
from .rules.base import steps_of
from .run import Horizon
from .step_lengths import decisive_step, gap_comes_early, spread_times

FEWEST_STEPS = 8
"""With this many steps or fewer, each step changes so much that a forecast loses to fewer steps."""

Keys = tuple[int, ...]
"""Numbers of the steps that run, rising from 0."""


def even_keys(
    steps: int,
    calls: int,
    warmup: int = 1,
    tail: int = 1,
    times: Sequence[float] = (),
    noisy: int | None = None,
    early: bool = False,
) -> Keys:
    """Return evenly spread steps, the first and the last ones among them.

    Args:
        steps: number of steps of the run.
        calls: how many of them run.
        warmup: first steps that all run, as far as the calls suffice.
        tail: last steps that all run, as far as the calls suffice.
        times: timestep of each step; the steps are evenly spread in these.
        noisy: a step before the last ones that runs, too; none runs between.
        early: whether a single longer gap comes early (:func:`.step_lengths.gap_comes_early`).

    Example:
        >>> even_keys(20, 7), even_keys(6, 1), even_keys(6, 4, times=(999, 640, 360, 160, 40, 0))
        ((0, 3, 6, 9, 12, 16, 19), (0,), (0, 1, 2, 5))
    """
    tail = min(tail, calls - 1)
    warmup = max(1, min(warmup, calls - tail))
    keys = {*range(warmup), *range(steps - tail, steps)}
    end = steps - tail
    if noisy is not None and warmup <= noisy < end and len(keys) < calls:
        keys.add(noisy)
        end = noisy
    missing = calls - len(keys)
    if not times and missing <= end - warmup:
        return tuple(sorted(keys.union(_between(warmup - 1, end, missing, early))))
    at = np.asarray(times or range(steps), dtype=float)
    last = at[end] if end < steps else 2 * at[-1] - at[max(0, steps - 2)]
    for wanted in np.linspace(at[warmup - 1], last, max(0, missing) + 2)[1:-1]:
        free = [step for step in range(end) if step not in keys] or [step for step in range(steps) if step not in keys]
        keys.add(min(free, key=lambda step: (round(abs(at[step] - wanted), 9), step % 2)))
    return tuple(sorted(keys))


def _between(start: int, end: int, count: int, early: bool) -> list[int]:
    """Return this many steps between two others: short gaps first, then the longer ones, and one short gap at the end.

    A line through two keys meets the step behind them worst where gaps alternate, so gaps of a length lie together. A single
    longer gap comes before the last quarter, or the last third if it is to come early.
    """
    gap, longer = divmod(end - start, count + 1)
    short = count + 1 - longer
    after = (short + 1) // 3 if early else short // 4
    first = short - (max(1, after) if longer == 1 else 1)
    gaps = [gap + (first <= place < first + longer) for place in range(count)]
    return (start + np.cumsum(gaps, dtype=int)).tolist()


def dense_keys(steps: int, calls: int, power: float) -> Keys:
    """Return steps that lie denser early (power above 1) or late (below 1), the first and the last one among them.

    Args:
        steps: number of steps of the run.
        calls: how many of them run.
        power: of the share of the run at which each lies.

    Example:
        >>> dense_keys(20, 5, power=2.0)
        (0, 1, 5, 11, 19)
    """
    if calls < 2:
        return (0,)
    keys = ((steps - 1) * np.linspace(0, 1, calls) ** power).round().astype(int).tolist()
    for place in range(1, calls):  # no step twice
        keys[place] = max(keys[place], keys[place - 1] + 1)
    for place in range(calls - 1, -1, -1):
        keys[place] = min(keys[place], steps - calls + place)
    return tuple(keys)


def growing_keys(steps: int, warmup: int, tail: int, growth: float, window: float = 2.0) -> Keys:
    """Return steps whose distance grows by `growth` from one to the next: Spectrum's rule (arXiv 2603.01623).

    Args:
        steps: number of steps of the run.
        warmup: first steps that all run.
        tail: last steps that all run.
        growth: added to the distance at each step that runs.
        window: first distance.

    Example:
        >>> growing_keys(20, warmup=5, tail=0, growth=0.75)
        (0, 1, 2, 3, 4, 6, 8, 11, 15)
    """
    keys, at = set(range(min(warmup, steps))), float(warmup - 1)
    while (at := at + math.floor(window)) < steps:
        keys.add(int(at))
        window = round(window + growth, 3)
    return tuple(sorted(keys | set(range(max(0, steps - tail), steps))))


def limited(keys: Iterable[int], steps: int, max_gap: int) -> Keys:
    """Return the keys, with more of them where longer gaps than `max_gap` are forecast; 0 is no limit.

    Args:
        keys: steps that run.
        steps: number of steps of the run.
        max_gap: most forecast steps in a row.

    Example:
        >>> limited((0, 6), steps=10, max_gap=2)
        (0, 3, 6, 8)
    """
    given = sorted(keys)
    found = set(given)
    for left, right in zip(given, [*given[1:], steps], strict=True) if max_gap else ():
        parts = math.ceil((right - left) / (max_gap + 1))
        found |= {left + round(i * (right - left) / parts) for i in range(parts)}
    return tuple(sorted(found))


def wanted_calls(settings: CallSkip, steps: int) -> int:
    """Return how many steps run.

    Args:
        settings: `calls`, or `speedup`.
        steps: number of steps of the run.

    Raises :class:`RecipeError` for more calls than there are steps.

    Example:
        >>> wanted_calls(CallSkip(speedup=2.5), 20)
        8
    """
    if settings.calls > steps:
        raise RecipeError(f"calls={settings.calls}, but this run has {steps} steps: give at most {steps}")
    return settings.calls or max(1, round(steps / settings.speedup))


def keys_for(
    settings: CallSkip, steps: int, times: Sequence[float] = (), noisy: int | None = None, early: bool = False
) -> Keys:
    """Return the steps that run.

    Args:
        settings: how many and which.
        steps: number of steps of the run.
        times: timestep of each step, in which even keys are spread; in the steps themselves without them.
        noisy: a step before the last ones that runs, too.
        early: whether a single longer gap comes early.

    Raises :class:`RecipeError` for settings that do not fit the run.

    Example:
        >>> keys_for(CallSkip(every=3), 10), keys_for(CallSkip(calls=4), 10)
        ((0, 3, 6, 9), (0, 3, 6, 9))
    """
    if settings.keys:
        if settings.keys[-1] >= steps:
            raise RecipeError(f"keys has step {settings.keys[-1]}, but this run's last step is {steps - 1}")
        return limited(settings.keys, steps, settings.max_gap)
    if settings.every:
        chosen = {*range(0, steps, settings.every), *range(settings.warmup), *range(steps - settings.tail, steps)}
        return limited((k for k in chosen if 0 <= k < steps), steps, settings.max_gap)
    calls = wanted_calls(settings, steps)
    if settings.rule == "growing":
        keys = _grown(settings if noisy is None else replace(settings, tail=settings.tail + 1), steps, calls)
    else:
        keys = even_keys(steps, calls, settings.warmup, settings.tail, times, noisy, early)
    return limited(keys, steps, settings.max_gap)


def _grown(settings: CallSkip, steps: int, calls: int) -> Keys:
    """Return growing keys of about this many calls; with the warm-up shortened if it takes more of them."""
    warmup = max(1, min(settings.warmup, calls - settings.tail - 1))
    found = [growing_keys(steps, warmup, settings.tail, growth) for growth in np.arange(0.0, 4.0, 0.05)]
    return min(found, key=lambda keys: abs(len(keys) - calls))


class CallPlan:
    """Call skipping bound to one run: whether the network runs at a step.

    Args:
        settings: how many steps run, and which.
        horizon: the calls of the run.

    Raises :class:`RecipeError` for settings that do not fit the run.

    Example:
        >>> plan = CallPlan(CallSkip(calls=4), Horizon(tuple(float(t) for t in range(950, -1, -100))))
        >>> [step for step in range(10) if plan.runs(step)]
        [0, 3, 6, 9]
    """

    def __init__(self, settings: CallSkip, horizon: Horizon) -> None:
        """Choose the steps, if their number is known."""
        self.settings, self._horizon = settings, horizon
        self.steps = steps_of(horizon) if horizon.timesteps else horizon.steps
        self._refuse_few()
        self.keys: Keys | None = None
        if self.steps and not settings.gated:
            noisy = decisive_step(horizon, self.steps, settings.tail)
            predictor = self._predictor(wanted_calls(settings, self.steps)) if horizon.levels else "line"
            early = gap_comes_early((horizon.timesteps or ())[:: horizon.stages], predictor)
            keys = keys_for(settings, self.steps, spread_times(horizon), noisy, early)
            self.keys = tuple(sorted({*keys, *horizon.steps_outside(settings)}))

    def _refuse_few(self) -> None:
        if self.settings.keys or self.settings.calls or self.settings.every:
            return
        if self._horizon.distilled:
            raise RecipeError(
                "this sampler draws with distilled models, in steps too large to forecast: use token merging"
            )
        if self.steps and self.steps <= FEWEST_STEPS:
            raise RecipeError(
                f"{self.steps} steps are too few to forecast any: use token merging, or more than {FEWEST_STEPS} steps"
            )

    @property
    def share(self) -> float:
        """Share of the steps that run; 1 where it is not known ahead."""
        return len(self.keys) / self.steps if self.keys and self.steps else 1.0

    @property
    def predictor(self) -> CallPredictorName:
        """How outputs are forecast."""
        return self._predictor(len(self.keys or ()))

    def _predictor(self, calls: int) -> CallPredictorName:
        """Return how outputs are forecast with this many steps that run."""
        s = self.settings
        if s.predictor != "auto":
            return s.predictor  # type: ignore[return-value]
        return "corrected" if s.space in ("auto", "eps") and self._horizon.corrects(calls) else "line"

    def abandon(self) -> None:
        """Decide step by step from now on, because the run left its announced calls."""
        self.keys = self.steps = None

    def add_after(self, step: int) -> int | None:
        """Run one more step, in the middle of the gap after a step. Return its number; None if there is no gap.

        Args:
            step: one that runs.
        """
        if self.keys is None or self.steps is None:
            return None
        after = min((key for key in self.keys if key > step), default=self.steps)
        extra = (step + after) // 2
        if extra == step:
            return None
        self.keys = tuple(sorted({*self.keys, extra}))
        return extra

    def runs(self, step: int, last: bool = False) -> bool:
        """Return whether the network runs at a step.

        Args:
            step: number of the sampler step, from 0.
            last: whether the host counts this as the last step. Used only when their number is not known.
        """
        s = self.settings
        if self.keys is not None:
            return step in self.keys or (self.steps is not None and step >= self.steps)
        if step < s.warmup or (last and s.tail):
            return True
        if self.steps and step >= self.steps - s.tail:
            return True
        if s.gated:
            return False  # the gate decides
        if s.keys:
            return step in s.keys
        every = float(s.every or s.speedup)
        return math.floor(step / every) > math.floor((step - 1) / every)

    def horizon_of_runs(self) -> Horizon:
        """Return what is known ahead of the calls that run."""
        known = self._horizon.timesteps
        if self.keys is None or known is None:
            return replace(self._horizon, timesteps=None)
        stages, keys = self._horizon.stages, set(self.keys)
        return replace(self._horizon, timesteps=tuple(t for i, t in enumerate(known) if i // stages in keys))
