"""Training of a mask from noise alone, on a network whose weights are not changed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...models.graph import BlockGraph
from ...recipe.mask import Mask
from ..denoiser import Denoiser
from .baselines import filled, interval_mask, rule_masks, spread_masks
from .forms import FORMS, unused
from .gated import frozen
from .local_search import local_search
from .masked_model import MaskedModel, prepare
from .settings import TrainSettings
from .shards import Shards
from .state import Progress, StopTraining, Training

log = logging.getLogger("skipstone")

OnProgress = Callable[[Progress], Any]


@dataclass
class Trained:
    """The result of a training.

    Args:
        mask: ready to use.
        graph: of the network.
        history: one entry per pass.
        stopped: whether training was ended early.
        kept_start: whether the learned mask was worse than the one that training started at, which is then the result.

    Example:
        >>> Trained(model.mask(np.ones((4, 4), dtype=bool)), model.graph, history=[]).mask.share
        1.0
    """

    mask: Mask
    graph: BlockGraph
    history: list[Progress]
    stopped: bool = False
    kept_start: bool = False


def train(
    denoiser: Denoiser,
    settings: TrainSettings | None = None,
    on_progress: OnProgress = lambda progress: None,
    checkpoint: str | Path | None = None,
    model: str = "",
    resume: bool = True,
) -> Trained:
    """Learn which blocks run at which call, so that the sampler's result is as near to the dense one as the budget allows.

    Ctrl-C or :class:`StopTraining` end training early and keep what was learned. A training that runs to its end is never
    worse than its start on the held-out noises: otherwise the result is the mask it started at.

    Args:
        denoiser: network, calls and sampler.
        settings: the defaults if None.
        on_progress: called after each pass.
        checkpoint: file written after each pass. If it cannot be written, training goes on without it.
        model: name for the mask's provenance.
        resume: continue from the checkpoint if it exists; otherwise it is replaced after the first pass.

    Raises :class:`SkipstoneError` for a model or settings that cannot be trained, or a checkpoint that does not fit.

    Example:
        >>> import torch
        >>> from diffusers import DDIMScheduler, DiTTransformer2DModel
        >>> from skipstone.pipelines.conditions import Conditions
        >>> from skipstone.pipelines.denoiser import PipelineDenoiser
        >>> dit, scheduler = DiTTransformer2DModel(1, 8, num_layers=2, sample_size=4), DDIMScheduler()
        >>> scheduler.set_timesteps(4)
        >>> labels = Conditions({"class_labels": torch.tensor([1])})
        >>> denoiser = PipelineDenoiser(dit, scheduler, labels, shape=(4, 4, 4))
        >>> trained = train(denoiser, TrainSettings(target=0.8, passes=1, tries=1, refine_batch=1))
        >>> trained.mask.run.shape, trained.mask.provenance["share"] <= 0.81
        ((4, 4), True)
    """
    settings = settings or TrainSettings()
    if names := unused(settings):
        form = f"form={settings.form!r} with control={settings.control!r}"
        log.warning("training ignores %s: %s does not use them", ", ".join(names), form)
    with frozen(denoiser.network):
        blockwise = settings.checkpointing == "block"
        masked = prepare(denoiser, settings.caching, settings.split, settings.loss_at, blockwise, settings.forecast)
        path = None if checkpoint is None else Path(checkpoint)
        return train_masked(masked, settings, on_progress, path, model, resume)


def train_masked(
    model: MaskedModel,
    settings: TrainSettings,
    on_progress: OnProgress = lambda progress: None,
    checkpoint: Path | None = None,
    name: str = "",
    resume: bool = True,
) -> Trained:
    """:func:`train` on a model that the caller has prepared, and whose weights are frozen.

    Args:
        model: to train on.
        settings: of the training.
        on_progress: called after each pass.
        checkpoint: file written after each pass.
        name: of the model, for the mask's provenance.
        resume: continue from the checkpoint if it exists.

    Example:
        >>> trained = train_masked(model, TrainSettings(target=0.5, passes=2, tries=2, refine_batch=2))
        >>> len(trained.history), trained.mask.provenance["share"] <= 0.51
        (2, True)
    """
    training = begin(model, settings)
    if resume and checkpoint is not None and checkpoint.exists():
        training.load(checkpoint)
    try:
        if not training.strategy.done:
            if settings.start == "rule":
                choose_start(training)
            training.start = training.strategy.mask()
        _passes(training, on_progress, checkpoint)
        _refine(training, on_progress)
    except (KeyboardInterrupt, StopTraining):
        training.stopped = True
    return _trained(training, name)


def begin(model: MaskedModel, settings: TrainSettings) -> Training:
    """Make a training before its first pass.

    Args:
        model: to train on.
        settings: of the training.

    Raises :class:`RecipeError` for a budget out of reach.

    Example:
        >>> begin(model, TrainSettings(target=0.5)).strategy.done
        0
    """
    return Training(FORMS[settings.form](model, settings, Shards()))


def choose_start(training: Training) -> None:
    """Start from the mask nearest to dense among those that rules make for the budget.

    Example:
        >>> training = begin(model, TrainSettings(target=0.5, refine_batch=2))
        >>> choose_start(training)
        >>> bool(model.costs.share(training.strategy.mask()) <= 0.51)
        True
    """
    model, ceiling, strategy = training.model, training.settings.ceiling, training.strategy
    made = [*rule_masks(model, ceiling, strategy.seeds.rules()).values(), *spread_masks(model, ceiling)]
    candidates = [interval_mask(model, ceiling), *(filled(run, model, ceiling) for run in made)]
    strategy.start_at(strategy.comparison.best_of(candidates))


def _passes(training: Training, on_progress: OnProgress, checkpoint: Path | None) -> None:
    while training.strategy.done < training.settings.passes:
        progress = training.run_pass()
        if checkpoint is not None and training.strategy.shards.first:
            training.save(checkpoint)
        on_progress(progress)


def _refine(training: Training, on_progress: OnProgress) -> None:
    """The search after the passes; the best mask so far is the training's, also when it is stopped."""
    settings, model, training.found = training.settings, training.model, training.best_mask()
    if not settings.refine:
        return

    def on_try(done: int, error: float, mask: np.ndarray) -> None:
        training.found = mask
        training.errors.append(error)
        on_progress(Progress("refine", done, settings.refine, error, model.costs.share(mask), 1.0))

    rng, strategy = np.random.default_rng(settings.seed), training.strategy
    where = (model, training.found, strategy.scores(), settings.ceiling, settings.refine)
    local_search(*where, strategy.comparison, rng, on_try)


def _trained(training: Training, name: str) -> Trained:
    strategy, model = training.strategy, training.model
    run = strategy.mask() if training.found is None else training.found
    share = model.costs.share(run)
    provenance: dict[str, Any] = {
        "made_by": "skipstone train-mask",
        "model": name,
        "settings": training.settings.to_dict(),
        "seed": training.settings.seed,
        "passes": strategy.done,
        "losses": [round(progress.loss, 8) for progress in training.history],
        "search_errors": [round(error, 8) for error in training.errors],
        "kept_start": training.kept_start,
        "share": share,
        "speedup": 1 / share,
    }
    mask = model.mask(run, probabilities=strategy.probabilities().numpy(), provenance=provenance)
    return Trained(mask, model.graph, training.history, training.stopped, training.kept_start)
