"""The life of a pass in the host: it begins before each sampling and ends after it.

An exception in the U-Net skips the host's `postprocess`, so each job first cleans up after an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any

from torch import nn

from ..core.engine.fitting import refusals, without
from ..core.recipe.recipe import Recipe
from .bracket import UNetBracket
from .control import LateControls
from .history import History, first_line
from .host import Step, calls_refusal, checkpoint_of, patcher_of, stopped, unet_of
from .loaded import learn
from .noise import levels_of
from .results import WHOLE, one_line, tell_done, tell_refused
from .sampler import sampler_of
from .schedule import Schedule
from .status import outcome_of


@dataclass
class _Pass:
    """The pass under way: its processing object, its U-Net and the checkpoint that is loaded in it.

    recipe: as the user asked for it. fitting: the part of it that this U-Net supports.
    """

    p: Any
    title: str
    recipe: Recipe
    unet: nn.Module
    checkpoint: str
    bracket: UNetBracket
    fitting: Recipe
    schedule: Schedule
    controls: LateControls
    stale: bool = False

    def switched(self) -> bool:
        """Has the host put another model, or other weights into the same modules, since the pass began?"""
        return self.stale or unet_of(self.p) is not self.unet or checkpoint_of(self.p) != self.checkpoint


class Lifecycle:
    """At most one pass is under way: the host samples one job at a time, whichever tab asked for it."""

    def __init__(self, history: History) -> None:
        """history: where the reports go."""
        self.history = history
        self._pass: _Pass | None = None
        self._lock = RLock()

    def begin(self, p: Any, recipe: Recipe, title: str) -> None:
        """Begin a pass and end the one before. What this model does not support is left out, and the infotext says why.

        Args:
            p: the processing object.
            recipe: what the user set.
            title: of the pass.
        """
        with self._lock:
            self.end()
            unet = unet_of(p)
            refused = refusals(unet, recipe) | _calls_refusals(p, recipe)
            for reason in dict.fromkeys(refused.values()):
                tell_refused(p, recipe, [kind for kind in refused if refused[kind] == reason], reason, title)
            fitting = without(recipe, set(refused))
            if not fitting.neutral:
                schedule = Schedule(sampler_of(p))
                levels, steps = partial(levels_of, p), partial(schedule.levels_and_slopes, p)
                bracket = UNetBracket(unet, fitting, levels, schedule.timesteps, steps)
                self._pass = _Pass(p, title, recipe, unet, checkpoint_of(p), bracket, fitting, schedule, LateControls())

    def end(self) -> None:
        """End the pass under way, if any, and keep its report. The U-Net is then as it was before."""
        with self._lock:
            ended, self._pass = self._pass, None
            if ended is None:
                return
            ended.schedule.remove()
            ended.controls.remove()
            report = ended.bracket.end()
            if not report.calls:
                return
            run = self.history.add(ended.title, report, ended.bracket.log)
            outcome_of(ended.p).add(ended.title, report, ended.bracket.work.found)
            learn(ended.unet, ended.title.split(", ")[1], ended.bracket.work.found)
            ended.p.comment(one_line(f"Skipstone, run {run.number}, {first_line(run)}", *report.notes))
            tell_done(ended.p, ended.fitting, report, ended.title, stopped())

    def on_step(self, params: Any) -> None:
        """`on_cfg_denoiser`: a sampler step begins; a refiner may just have switched the model."""
        with self._lock:
            if self._pass is None:
                return
            p = getattr(params.denoiser, "p", None)
            foreign = p is not None and p is not self._pass.p
            if not foreign and self._pass.switched():
                self._resume(self._pass, f"{self._pass.title}, after a model switch")
            elif not foreign and _calls_refusals(self._pass.p, self._pass.fitting):
                self._resume(self._pass, self._pass.title)
            if (now := self._pass) is None:
                return
            now.bracket.new_step(Step.of(params.denoiser, now.schedule.steps), _rows(params.text_cond), foreign)
            if now.bracket.skips_calls and not foreign:
                now.controls.add(patcher_of(now.p))

    def _resume(self, before: _Pass, title: str) -> None:
        """Begin a pass in place of one that cannot go on as it began. The sampler stays the same."""
        self.begin(before.p, before.recipe, title)
        if self._pass is not None:
            self._pass.schedule.goes_on(before.schedule)

    def on_model_loaded(self, model: Any) -> None:
        """`on_model_loaded`: the next step begins a new pass, since cached values belong to the old weights."""
        with self._lock:
            if self._pass is not None:
                self._pass.stale = True


def _calls_refusals(p: Any, recipe: Recipe) -> dict[str, str]:
    """Kind -> reason, for each method that skips calls where none can be skipped."""
    skipping = [method.kind for method in recipe.methods if method.kind in WHOLE]
    reason = calls_refusal(p) if skipping else ""
    return dict.fromkeys(skipping, reason) if reason else {}


def _rows(cond: Any) -> int | None:
    shape = getattr(cond, "shape", None)
    return shape[0] if shape else None
