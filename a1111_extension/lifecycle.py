"""The life of a pass in the host: it begins before each sampling and ends after it.

An exception in the U-Net skips the host's `postprocess`, so each job first cleans up after an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import RLock
from typing import Any

from torch import nn

from ..core.engine.fitting import refusals, without
from ..core.recipe.recipe import Recipe
from .bracket import UNetBracket
from .history import History, first_line
from .host import checkpoint_of, is_last_step, step_of, unet_of
from .results import one_line, tell_done, tell_refused


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
        """Begin a pass and end the one before. What this model does not support is left out, and the infotext says why."""
        with self._lock:
            self.end()
            unet = unet_of(p)
            refused = refusals(unet, recipe)
            for reason in dict.fromkeys(refused.values()):
                tell_refused(p, recipe, [kind for kind in refused if refused[kind] == reason], reason, title)
            fitting = without(recipe, set(refused))
            if not fitting.neutral:
                self._pass = _Pass(p, title, recipe, unet, checkpoint_of(p), UNetBracket(unet, fitting), fitting)

    def end(self) -> None:
        """End the pass under way, if any, and keep its report. The U-Net is then as it was before."""
        with self._lock:
            ended, self._pass = self._pass, None
            if ended is None:
                return
            report = ended.bracket.end()
            if not report.calls:
                return
            run = self.history.add(ended.title, report)
            ended.p.comment(one_line(f"Skipstone, run {run.number}, {first_line(run)}", *report.notes))
            tell_done(ended.p, ended.fitting, report, ended.title)

    def on_step(self, params: Any) -> None:
        """`on_cfg_denoiser`: a sampler step begins; a refiner may just have switched the model."""
        with self._lock:
            if self._pass is None:
                return
            p = getattr(params.denoiser, "p", None)
            foreign = p is not None and p is not self._pass.p
            if not foreign and self._pass.switched():
                self.begin(self._pass.p, self._pass.recipe, f"{self._pass.title}, after a model switch")
            if self._pass is not None:
                self._pass.bracket.foreign = foreign
                self._pass.bracket.last_step = is_last_step(params.denoiser)
                self._pass.bracket.step = step_of(params.denoiser)
                self._pass.bracket.rows.new_step(_rows(params.text_cond))

    def on_model_loaded(self, model: Any) -> None:
        """`on_model_loaded`: the next step begins a new pass, since cached values belong to the old weights."""
        with self._lock:
            if self._pass is not None:
                self._pass.stale = True


def _rows(cond: Any) -> int | None:
    shape = getattr(cond, "shape", None)
    return shape[0] if shape else None
