"""The paper's training: one loss and one step per call; gradients never leave their call (arXiv 2603.19939, section 3.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .gated import CallGates, Outcome, detached
from .losses import feature_loss
from .masked_model import Place
from .strategy import GradientStrategy


class _PerCall(GradientStrategy):
    """Steps on the row of one call at a time."""

    reads = GradientStrategy.reads | {"loss_at", "checkpointing"}

    def _update(self, place: Place, call: int, end: Tensor) -> tuple[float, Outcome]:
        """One step on row `call`. end: the dense run's feature. Returns the feature loss and the gated call."""
        masked = self.model.masked(place.at, call, self.learner.gates.draw(call, self.model.device), place.caches)
        loss = feature_loss(masked.end, end)
        self.learner.step(loss, [call])
        return float(loss.detach()), masked


class Interleaved(_PerCall):
    """Each pass is one run on new samples; at each call a dense and a gated forward of the same x give a step on that row.

    The caches are those of the gated forwards.

    Args:
        model: to train on.
        settings: of the training.
        shards: this process's part.

    Example:
        >>> from skipstone.core.calibrate.masks.settings import TrainSettings
        >>> from skipstone.core.calibrate.masks.shards import Shards
        >>> strategy = Interleaved(model, TrainSettings(form="interleaved", target=0.5, batch=2), Shards())
        >>> strategy.run_pass() > 0, strategy.probabilities().shape
        (True, torch.Size([4, 4]))
    """

    reads = _PerCall.reads | {"advance"}

    def step_all(self) -> float:
        """Step on every row but the first. Returns the mean feature loss."""
        place, losses = Place(self.model.denoiser.begin(self.seeds.batch(self.done))), []
        for call in range(self.model.calls):
            place, loss = self._call(place, call)
            losses.append(loss)
        return float(np.mean(losses))

    def _call(self, place: Place, call: int) -> tuple[Place, float]:
        advance = self.model.denoiser.advance
        with torch.no_grad():
            dense = self.model.dense(place.at, call)
        if place.caches is None:
            return Place(advance(place.at, dense.output, call), dense.caches), 0.0
        loss, masked = self._update(place, call, dense.end)
        leads = masked if self.settings.advance == "student" else dense
        return Place(advance(place.at, leads.output.detach(), call), detached(masked.caches)), loss


class Sequential(_PerCall):
    """Call by call: `updates` steps on a row over two batches, then the row is fixed and both batches move on.

    Later rows see the caches that the fixed rows leave.

    Args:
        model: to train on.
        settings: of the training.
        shards: this process's part.

    Example:
        >>> from skipstone.core.calibrate.masks.settings import TrainSettings
        >>> from skipstone.core.calibrate.masks.shards import Shards
        >>> strategy = Sequential(model, TrainSettings(form="sequential", target=0.5, batch=2, updates=2), Shards())
        >>> strategy.run_pass() > 0
        True
    """

    reads = _PerCall.reads | {"updates"}

    def step_all(self) -> float:
        """Make `updates` steps on every row but the first. Returns the mean feature loss."""
        batches = [self.seeds.batch(self.done * self.settings.updates + k) for k in range(2)]
        places, losses = [Place(self.model.denoiser.begin(seeds)) for seeds in batches], []
        for call in range(self.model.calls):
            if call:
                losses += self._settle(places, call)
            places = [self._moved(place, call) for place in places]
        return float(np.mean(losses))

    def _settle(self, places: list[Place], call: int) -> list[float]:
        """The losses of the steps on one row; the batches take turns."""
        with torch.no_grad():
            ends = [self.model.dense(place.at, call).end for place in places]
        turns = [number % len(places) for number in range(self.settings.updates)]
        return [self._update(places[turn], call, ends[turn])[0] for turn in turns]

    @torch.no_grad()
    def _moved(self, place: Place, call: int) -> Place:
        runs = self.learner.gates.rows[call].detach().numpy() > 0.5
        outcome = self.model.masked(place.at, call, CallGates(runs), place.caches)
        return Place(self.model.denoiser.advance(place.at, outcome.output, call), outcome.caches)
