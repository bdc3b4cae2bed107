"""The paper's training: one loss per call, compared with a dense forward of the same x (arXiv 2603.19939, section 3.3).

In the paper gradients never leave their call. With `credit` they also reach the calls before it, through what those cached.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .gated import CallGates, Outcome, detached
from .losses import feature_loss
from .masked_model import Place
from .strategy import GradientStrategy
from .windowed import windows


class _PerCall(GradientStrategy):
    """Compares each call with a dense one."""

    reads = GradientStrategy.reads | {"loss_at", "checkpointing"}

    def _gated(self, place: Place, call: int, end: Tensor) -> tuple[Tensor, Outcome]:
        """A call under gates. end: the dense run's feature. Returns the feature loss and the gated call."""
        masked = self.model.masked(place.at, call, self.learner.gates.draw(call, self.model.device), place.caches)
        return feature_loss(masked.end, end), masked


class Interleaved(_PerCall):
    """Each pass is one run on new samples; at each call a dense and a gated forward of the same x give a loss.

    The caches are those of the gated forwards. One step on the rows of `credit` + 1 calls follows, with the sum of their losses.

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

    reads = _PerCall.reads | {"advance", "credit"}

    def step_all(self) -> float:
        """Step on every row but the first. Returns the mean feature loss."""
        place, losses, size = (
            Place(self.model.denoiser.begin(self.seeds.batch(self.done))),
            [],
            self.settings.credit + 1,
        )
        # Windows begin at another call in each pass, so that no call is always their last one.
        for window in windows(self.model.calls, size, self.done % size):
            place, found = self._window(place, window)
            losses += found
        return float(np.mean(losses))

    def _window(self, place: Place, window: range) -> tuple[Place, list[float]]:
        """One step on the rows of some calls. Returns the place after them, and their losses."""
        losses = []
        for call in window:
            place, loss = self._call(place, call)
            losses.append(loss)
        if window[-1] > 0:
            self.learner.step(torch.stack(losses).sum(), window)
        assert place.caches is not None
        return Place(place.at, detached(place.caches)), [float(loss.detach()) for loss in losses]

    def _call(self, place: Place, call: int) -> tuple[Place, Tensor]:
        advance = self.model.denoiser.advance
        with torch.no_grad():
            dense = self.model.dense(place.at, call)
        if place.caches is None:
            return Place(advance(place.at, dense.output, call), dense.caches), torch.zeros((), device=self.model.device)
        loss, masked = self._gated(place, call, dense.end)
        leads = masked if self.settings.advance == "student" else dense
        return Place(advance(place.at, leads.output.detach(), call), masked.caches), loss


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
        return [self._update(places[turn], call, ends[turn]) for turn in turns]

    def _update(self, place: Place, call: int, end: Tensor) -> float:
        """One step on a row. Returns the feature loss."""
        loss, _ = self._gated(place, call, end)
        self.learner.step(loss, [call])
        return float(loss.detach())

    @torch.no_grad()
    def _moved(self, place: Place, call: int) -> Place:
        runs = self.learner.gates.rows[call].detach().numpy() > 0.5
        outcome = self.model.masked(place.at, call, CallGates(runs), place.caches)
        return Place(self.model.denoiser.advance(place.at, outcome.output, call), outcome.caches)
