"""The life of a pass in the host: begun before each sampling, ended after it, and swept up when it ended badly.

An exception in the U-Net skips the host's `postprocess`, so every job first clears what an earlier one may have left.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import RLock
from typing import Any

from torch import nn

from ..core.engine.meter import Report
from ..core.errors import SkipstoneError
from ..core.recipe import Recipe
from .bracket import UNetBracket
from .history import History, Run
from .host import checkpoint_of, is_last_step, unet_of
from .settings import BLOCKS_RUN, MERGED, PRUNED

log = logging.getLogger("skipstone")


@dataclass
class _Pass:
    """What is under way: for which processing object, on which U-Net, with which checkpoint in it."""

    p: Any
    title: str
    recipe: Recipe
    unet: nn.Module
    checkpoint: str
    bracket: UNetBracket
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
        """Begin a pass; the one before ends. A model that cannot be served is told of, once, and runs dense."""
        with self._lock:
            self.end()
            unet = unet_of(p)
            try:
                self._pass = _Pass(p, title, recipe, unet, checkpoint_of(p), UNetBracket(unet, recipe))
            except SkipstoneError as error:
                tell_dense(p, str(error))

    def end(self) -> None:
        """End the pass under way, if any, and file its report. The U-Net is then as it was before."""
        with self._lock:
            ended, self._pass = self._pass, None
            if ended is None:
                return
            report = ended.bracket.end()
            if not report.calls:
                return
            self.history.add(Run(ended.title, report))
            _tell_results(ended.p, ended.title, ended.recipe, report)
            if report.idle:
                tell_dense(ended.p, report.summary().replace("\n", "; "))

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
                self._pass.bracket.rows.new_step(_rows(params.text_cond))

    def on_model_loaded(self, model: Any) -> None:
        """`on_model_loaded`: what was kept of the weights before must not be used at the next step."""
        with self._lock:
            if self._pass is not None:
                self._pass.stale = True


def tell_dense(p: Any, reason: str, what: str = "nothing done") -> None:
    """Say once, under the picture and in the console, what was not done and why."""
    text = f"Skipstone: {what}. {reason}"
    if text not in (getattr(p, "comments", None) or {}):
        log.warning(text)
        p.comment(text)


def _tell_results(p: Any, title: str, recipe: Recipe, report: Report) -> None:
    """Put the shares of merged or pruned tokens and of blocks that ran into the infotext, as far as they were asked for."""
    if recipe.merge and not recipe.merge.neutral:
        _tell_share(p, MERGED, title, _left_out(report, "merged"))
    if recipe.prune and not recipe.prune.neutral:
        _tell_share(p, PRUNED, title, _left_out(report, "pruned"))
    if recipe.skip and not recipe.skip.neutral:
        _tell_share(p, BLOCKS_RUN, title, report.blocks_run / max(1, report.blocks))


def _left_out(report: Report, verb: str) -> float:
    layers = [layer for layer in report.layers.values() if layer.verb == verb]
    return 1 - sum(layer.kept for layer in layers) / sum(layer.tokens for layer in layers) if layers else 0.0


def _tell_share(p: Any, key: str, title: str, share: float) -> None:
    """One figure per pass; a later batch replaces an earlier one's."""
    shares = p.__dict__.setdefault("skipstone_results", {}).setdefault(key, {})
    shares[title] = share
    p.extra_generation_params[key] = " / ".join(f"{s:.0%}" for s in shares.values())


def _rows(cond: Any) -> int | None:
    shape = getattr(cond, "shape", None)
    return shape[0] if shape else None
