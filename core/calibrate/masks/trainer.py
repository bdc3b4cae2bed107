"""Training a mask from noise alone, on a network that stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import FileError
from ...models.graph import BlockGraph
from ...recipe.mask import Mask
from ..denoiser import Denoiser
from .baselines import certain, filled, interval_mask, rule_masks, spread_masks, start_of
from .checkpoint import load_checkpoint, save_checkpoint
from .comparison import Comparison
from .costs import to_budget
from .exchange import exchange_pass
from .gated import frozen
from .gates import Gates
from .learner import Learner
from .local_search import refine
from .losses import loss_weights
from .masked_model import Subject, prepare
from .per_call import interleaved_pass, sequential_pass
from .profile import profile
from .progress import Progress, StopTraining
from .settings import VERIFIED, TrainSettings
from .shards import Shards
from .windowed import windowed_pass

log = logging.getLogger("skipstone")

_EASE = 1e-9
_SEEDS = 1 << 20
"""Samples of training run with seed s come from s * _SEEDS on. torch's CPU generator reads the low 32 bits of a seed only."""
EVALUATION_SEEDS = 1 << 31
"""Samples from here on are never trained on."""


@dataclass
class Trained:
    """mask: ready to use. graph: of the network. history: one entry per pass. variation, weights [T]: v(s), w(s), Eq. 9, 10.

    stopped: training was ended early. kept_start: the learned mask was worse than the one that training started at, which
    is the result.
    """

    mask: Mask
    graph: BlockGraph
    history: list[Progress]
    variation: Tensor
    weights: Tensor
    stopped: bool = False
    kept_start: bool = False


@dataclass
class Training:
    """A training under way."""

    subject: Subject
    settings: TrainSettings
    learner: Learner
    variation: Tensor
    history: list[Progress] = field(default_factory=list)
    start: np.ndarray | None = None
    kept_start: bool = False
    found: np.ndarray | None = None
    errors: list[float] = field(default_factory=list)
    stopped: bool = False
    unsaved: bool = False

    @property
    def shards(self) -> Shards:
        """The processes that take part."""
        return self.learner.shards

    def seeds(self, number: int) -> list[int]:
        """This process's samples of a pass."""
        first = self.settings.seed * _SEEDS + number * self.settings.batch
        return self.shards.part(range(first, first + self.settings.batch))

    def run_pass(self) -> float:
        """One pass by the chosen form; returns its loss."""
        number = self.learner.done
        if self.settings.form in VERIFIED:
            return self._binary_pass(number)
        if self.settings.form == "sequential":
            pool = [self.seeds(number * self.settings.updates + k) for k in range(2)]
            loss = sequential_pass(self.subject, self.learner, pool)
        elif self.settings.form == "windowed":
            loss = windowed_pass(self.subject, self.learner, self.seeds(number))
        else:
            loss = interleaved_pass(self.subject, self.learner, self.seeds(number))
        self.learner.end_pass()
        return float(self.shards.mean(torch.tensor(loss)))

    def _binary_pass(self, number: int) -> float:
        settings, learner = self.settings, self.learner
        if settings.form == "exchange":
            run, error = exchange_pass(self.subject, learner, self.run(), self.seeds(number), self.comparison)
        else:
            rng = np.random.default_rng([settings.seed, number])
            scores, run = learner.scores(), self.run()
            turn = number * settings.tries
            given = (settings.ceiling, settings.tries, self.comparison, rng)
            run, errors = refine(self.subject, run, scores, *given, turn=turn)
            error = errors[-1]
        learner.gates.assign(certain(run, settings.sureness))
        learner.done += 1
        return error

    @cached_property
    def comparison(self) -> Comparison:
        """The samples on which masks are compared; never among those of the passes."""
        finding, held_out = (self.shards.part(self.compared_seeds(part)) for part in (0, 1))
        return Comparison(self.subject, finding, held_out, self.shards)

    def compared_seeds(self, part: int) -> list[int]:
        """All processes' samples for finding moves (part 0), and those on which a move must hold (part 1)."""
        count, last = self.settings.refine_batch, (self.settings.seed + 1) * _SEEDS - 1
        return [last - n for n in range(part * count, (part + 1) * count)]

    def never_above_the_start(self) -> np.ndarray:
        """The mask that was learned, or the one that training began at where its error on the held-out noises is lower."""
        run, start = self.run(), self.start
        if start is None or np.array_equal(run, start):
            return run
        self.kept_start = not self.comparison.held_out(run) <= self.comparison.held_out(start)
        return start if self.kept_start else run

    def note(self, loss: float) -> Progress:
        """Write down a pass."""
        learner = self.learner
        total = self.settings.passes
        now = Progress("train", learner.done, total, loss, learner.expected(), learner.gates.settled())
        self.history.append(now)
        return now

    def save(self, checkpoint: Path) -> None:
        """Write the checkpoint. A disk that is full must not end a training: it is logged once."""
        try:
            save_checkpoint(checkpoint, self)
        except FileError as error:
            if not self.unsaved:
                log.warning("%s; training goes on without a checkpoint", error)
            self.unsaved = True

    def run(self) -> np.ndarray:
        """The mask bool [T, L] that the probabilities stand for, within the budget."""
        scores, costs, ceiling = self.learner.scores(), self.subject.costs, self.settings.ceiling
        sure = scores > 0.5
        if self.settings.form in VERIFIED and sure[0].all() and costs.share(sure) <= ceiling + _EASE:
            return sure
        return to_budget(scores, ceiling, costs)


def train(
    denoiser: Denoiser,
    settings: TrainSettings | None = None,
    on_progress: Callable[[Progress], Any] = lambda progress: None,
    checkpoint: str | Path | None = None,
    model: str = "",
    resume: bool = True,
) -> Trained:
    """Learn which blocks run at which call, so that the sampler's result stays as near to the dense one as the budget lets it.

    Ctrl-C or :class:`StopTraining` end training early and keep what was learned. A training that runs to its end is never
    worse than its start on the held-out noises: where it would be, the result is the mask it started at.

    Args:
        on_progress: called after each pass.
        checkpoint: file written after each pass. Where it cannot be written, training goes on without it.
        model: name for the mask's provenance.
        resume: continue from the checkpoint where it exists; else it is replaced after the first pass.

    Raises :class:`SkipstoneError` for a model or settings that cannot be trained, or a checkpoint that does not fit.
    """
    settings = settings or TrainSettings()
    if unread := settings.unread():
        log.warning(
            "training ignores %s: form=%r with control=%r does not use them", unread, settings.form, settings.control
        )
    with frozen(denoiser.network):
        blockwise = settings.checkpointing == "block"
        subject = prepare(denoiser, settings.caching, settings.split, settings.loss_at, blockwise, settings.forecast)
        path = None if checkpoint is None else Path(checkpoint)
        return train_subject(subject, settings, on_progress, path, model, resume)


def train_subject(
    subject: Subject,
    settings: TrainSettings,
    on_progress: Callable[[Progress], Any] = lambda progress: None,
    checkpoint: Path | None = None,
    model: str = "",
    resume: bool = True,
) -> Trained:
    """:func:`train` on a network that was looked over, and whose weights are frozen, by the caller."""
    training = begin(subject, settings)
    if resume and checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, training)
    try:
        if not training.learner.done:
            if settings.start == "rule":
                choose_start(training)
            training.start = training.run()
        _passes(training, on_progress, checkpoint)
        _search(training, on_progress)
    except (KeyboardInterrupt, StopTraining):
        training.stopped = True
    return _trained(training, model)


def begin(subject: Subject, settings: TrainSettings) -> Training:
    """Profile the network, and set the probabilities to their start."""
    shards = Shards()
    mine = shards.part(range(settings.profile_batch * shards.count))
    variation = shards.mean(profile(subject, [(settings.seed + 1) * _SEEDS - 1 - n for n in mine]))
    weights = loss_weights(variation, settings.weight_low, settings.weight_high)
    gates = Gates(start_of(subject, settings), settings.sampling, settings.seed)
    return Training(subject, settings, Learner(gates, settings, subject.costs, weights, shards), variation)


def choose_start(training: Training) -> None:
    """Begin at that mask of a rule, of those that meet the budget, whose results are nearest to dense."""
    subject, ceiling, comparison = training.subject, training.settings.ceiling, training.comparison
    seeds = training.compared_seeds(0)[: training.settings.profile_batch]
    made = [*rule_masks(subject, ceiling, seeds).values(), *spread_masks(subject, ceiling)]
    best = comparison.best_of([interval_mask(subject, ceiling), *(filled(run, subject, ceiling) for run in made)])
    training.learner.gates.assign(certain(best, training.settings.sureness))


def _passes(training: Training, on_progress: Callable[[Progress], Any], checkpoint: Path | None) -> None:
    while training.learner.done < training.settings.passes:
        progress = training.note(training.run_pass())
        if checkpoint is not None and training.shards.first:
            training.save(checkpoint)
        on_progress(progress)


def _search(training: Training, on_progress: Callable[[Progress], Any]) -> None:
    """The short search after binarisation; the best mask so far is the training's, also when it is stopped."""
    settings, training.found = training.settings, training.never_above_the_start()
    if not settings.refine:
        return

    def tell(done: int, error: float, mask: np.ndarray) -> None:
        training.found = mask
        training.errors.append(error)
        on_progress(Progress("refine", done, settings.refine, error, training.subject.costs.share(mask), 1.0))

    rng = np.random.default_rng(settings.seed)
    scores = training.learner.scores()
    refine(training.subject, training.found, scores, settings.ceiling, settings.refine, training.comparison, rng, tell)


def _trained(training: Training, model: str) -> Trained:
    learner, costs = training.learner, training.subject.costs
    run = training.run() if training.found is None else training.found
    provenance: dict[str, Any] = {
        "made_by": "skipstone train-mask",
        "model": model,
        "settings": training.settings.to_dict(),
        "seed": training.settings.seed,
        "passes": learner.done,
        "losses": [round(p.loss, 8) for p in training.history],
        "search_errors": [round(e, 8) for e in training.errors],
        "kept_start": training.kept_start,
        "share": costs.share(run),
        "speedup": 1 / costs.share(run),
    }
    mask = training.subject.mask(run, probabilities=learner.gates.values.numpy(), provenance=provenance)
    graph = training.subject.graph
    ended = (training.stopped, training.kept_start)
    return Trained(mask, graph, training.history, training.variation, learner.weights, *ended)
