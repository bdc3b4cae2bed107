"""The interface of a form of training: a state, a pass that changes it, and the mask that the state stands for.

:class:`BinaryStrategy` changes a mask by moves that are verified; :class:`GradientStrategy` steps on probabilities along
gradients. :mod:`.forms` lists the forms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .baselines import certain, interval_mask
from .comparison import Comparison
from .costs import to_budget
from .gates import Gates
from .learner import Learner
from .losses import loss_weights
from .masked_model import MaskedModel
from .profile import profile
from .seeds import TrainingSeeds
from .settings import TrainSettings
from .shards import Shards

_REGULARISERS = {"lambda1", "lambda2_ratio"}


class Strategy(ABC):
    """One form of training. Every process holds the same state; each draws its own samples.

    Args:
        model: to train on.
        settings: of the training.
        shards: this process's part.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"sureness"})
    """Settings that this form may use and others may not."""
    needs_gradients: ClassVar[bool] = True
    """Whether the network is differentiated."""
    done: int
    """Passes so far."""

    def __init__(self, model: MaskedModel, settings: TrainSettings, shards: Shards) -> None:
        """Prepare the state before the first pass. Raises :class:`RecipeError` for a budget out of reach."""
        self.model, self.settings, self.shards = model, settings, shards
        self.seeds = TrainingSeeds(settings, shards)

    @classmethod
    def uses(cls, settings: TrainSettings) -> frozenset[str]:
        """The settings among `reads` that have an effect, given the others."""
        return cls.reads

    @cached_property
    def comparison(self) -> Comparison:
        """Compares masks on samples that no pass uses."""
        return Comparison(self.model, self.seeds.finding(), self.seeds.held_out(), self.shards)

    @abstractmethod
    def run_pass(self) -> float:
        """Run one pass and count it in `done`. Returns its loss."""

    @abstractmethod
    def start_at(self, run: np.ndarray) -> None:
        """Set the state to a mask bool [T, L]."""

    @abstractmethod
    def mask(self) -> np.ndarray:
        """The mask bool [T, L] that the state stands for, within the budget."""

    @abstractmethod
    def probabilities(self) -> Tensor:
        """Probability [T, L] that a block runs; the first call runs all."""

    @abstractmethod
    def scores(self) -> np.ndarray:
        """Worth of each run, [T, L]."""

    @abstractmethod
    def share(self) -> float:
        """The share of the multiply-adds that the state stands for."""

    @abstractmethod
    def settled(self) -> float:
        """The share of the probabilities that are near 0 or 1."""

    def numbers(self) -> dict[str, float]:
        """The numbers of the state, for a checkpoint."""
        return {}

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state, for a checkpoint."""

    @abstractmethod
    def restore(self, done: int, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Set a saved state.

        Args:
            done: passes.
            numbers: of :meth:`numbers`.
            tensors: of :meth:`tensors`.

        Raises :class:`MaskError`, with nothing changed, for a value that is out of range.
        """


class BinaryStrategy(Strategy):
    """A mask bool [T, L] that is changed by verified moves at a fixed budget.

    Args:
        model: to train on.
        settings: of the training.
        shards: this process's part.

    Example:
        >>> from skipstone.core.calibrate.masks.local_search import LocalSearch
        >>> LocalSearch(model, TrainSettings(target=0.5), Shards()).mask()[:, 0].tolist()  # starts from an interval mask
        [True, False, True, False]
    """

    def __init__(self, model: MaskedModel, settings: TrainSettings, shards: Shards) -> None:
        """Start from an interval mask, or from the first entries that fit the budget for a uniform start."""
        super().__init__(model, settings, shards)
        self.done, self.run = 0, interval_mask(model, settings.ceiling)
        if settings.start == "uniform":
            self.run = to_budget(np.ones(model.shape), settings.ceiling, model.costs)

    def start_at(self, run: np.ndarray) -> None:
        self.run = run

    def mask(self) -> np.ndarray:
        return self.run

    def probabilities(self) -> Tensor:
        p = certain(self.run, self.settings.sureness)
        p[0] = 1.0
        return p

    def scores(self) -> np.ndarray:
        return self.probabilities().numpy()

    def share(self) -> float:
        return self.model.costs.share(self.run)

    def settled(self) -> float:
        return 1.0

    def tensors(self) -> dict[str, Tensor]:
        return {"probabilities": torch.from_numpy(self.run).float()}

    def restore(self, done: int, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        self.done, self.run = done, tensors["probabilities"].numpy() > 0.5


class GradientStrategy(Strategy):
    """Probabilities [T, L] that a learner moves along the gradients of losses, and that are cut to a mask at the budget.

    Args:
        model: to train on.
        settings: of the training.
        shards: this process's part.

    Example:
        >>> from skipstone.core.calibrate.masks.windowed import Windowed
        >>> strategy = Windowed(model, TrainSettings(form="windowed", target=0.5, sureness=0.75), Shards())
        >>> strategy.probabilities()[1:3, 0].tolist()
        [0.25, 0.75]
    """

    reads = Strategy.reads | _REGULARISERS | {
        "initial", "sampling", "lr", "control", "weight_low", "weight_high", "cost_weighted"
    }  # fmt: skip

    def __init__(self, model: MaskedModel, settings: TrainSettings, shards: Shards) -> None:
        """Measure the variation of features, and start from a rule or uniformly."""
        super().__init__(model, settings, shards)
        variation = shards.mean(profile(model, self.seeds.profile()))
        weights = loss_weights(variation, settings.weight_low, settings.weight_high)
        gates = Gates(self._first_probabilities(), settings.sampling, settings.seed)
        self.learner = Learner(gates, settings, model.costs, weights, shards)

    @classmethod
    def uses(cls, settings: TrainSettings) -> frozenset[str]:
        idle = {"sureness" if settings.start == "uniform" else "initial"}
        return super().uses(settings) - idle - (_REGULARISERS if settings.control == "project" else set())

    @property
    def done(self) -> int:  # type: ignore[override]
        """Passes so far."""
        return self.learner.done

    def _first_probabilities(self) -> Tensor:
        rule = interval_mask(self.model, self.settings.ceiling)
        if self.settings.start == "uniform":
            return torch.full(self.model.shape, self.settings.initial)
        return certain(rule, self.settings.sureness)

    @abstractmethod
    def step_all(self) -> float:
        """Step on every row, each once or more. Returns this process's mean loss."""

    def run_pass(self) -> float:
        loss = self.step_all()
        self.learner.end_pass()
        return float(self.shards.mean(torch.tensor(loss)))

    def start_at(self, run: np.ndarray) -> None:
        self.learner.gates.assign(certain(run, self.settings.sureness))

    def mask(self) -> np.ndarray:
        return to_budget(self.scores(), self.settings.ceiling, self.model.costs)

    def probabilities(self) -> Tensor:
        return self.learner.gates.values

    def scores(self) -> np.ndarray:
        return self.learner.scores()

    def share(self) -> float:
        return self.learner.expected()

    def settled(self) -> float:
        return self.learner.gates.settled()

    def numbers(self) -> dict[str, float]:
        return self.learner.numbers()

    def tensors(self) -> dict[str, Tensor]:
        return self.learner.tensors()

    def restore(self, done: int, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        self.learner.restore(done, numbers, tensors)
