"""What every form of training has: a state, one pass that changes it, and the mask that the state stands for.

A form is a class of its own: :class:`BinaryStrategy` changes a mask by moves that are verified, :class:`GradientStrategy` steps on
probabilities along gradients. :mod:`.forms` lists them.
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

    reads: settings that this form may use and others may not. needs_gradients: the network is differentiated.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"initial", "sureness"})
    needs_gradients: ClassVar[bool] = True
    done: int
    """Passes so far."""

    def __init__(self, model: MaskedModel, settings: TrainSettings, shards: Shards) -> None:
        """Before the first pass. Raises :class:`RecipeError` for a budget out of reach."""
        self.model, self.settings, self.shards = model, settings, shards
        self.seeds = TrainingSeeds(settings, shards)

    @classmethod
    def uses(cls, settings: TrainSettings) -> frozenset[str]:
        """Those of `reads` that these settings leave in use."""
        return cls.reads - {"sureness" if settings.start == "uniform" else "initial"}

    @cached_property
    def comparison(self) -> Comparison:
        """Compares masks on samples of which no pass uses any."""
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
        """[T, L]: how sure it is that a block runs; the first call runs all."""

    @abstractmethod
    def scores(self) -> np.ndarray:
        """How much each run is worth, [T, L]."""

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
        """Take over a state. Raises :class:`MaskError`, and changes nothing, where a value cannot be one."""


class BinaryStrategy(Strategy):
    """A mask bool [T, L] that is changed by verified moves at a fixed budget."""

    def __init__(self, model: MaskedModel, settings: TrainSettings, shards: Shards) -> None:
        super().__init__(model, settings, shards)
        self.done, self.run = 0, interval_mask(model, settings.ceiling)
        if settings.start == "uniform":
            self.run = to_budget(np.ones(model.shape), settings.ceiling, model.costs)

    @classmethod
    def uses(cls, settings: TrainSettings) -> frozenset[str]:
        return super().uses(settings) | {"sureness"}

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
    """Probabilities [T, L] that a learner moves along the gradients of losses, and cuts to a mask at the budget."""

    reads = Strategy.reads | {"sampling", "lr", "control", "weight_low", "weight_high", "cost_weighted", *_REGULARISERS}

    def __init__(self, model: MaskedModel, settings: TrainSettings, shards: Shards) -> None:
        super().__init__(model, settings, shards)
        variation = shards.mean(profile(model, self.seeds.profile()))
        weights = loss_weights(variation, settings.weight_low, settings.weight_high)
        gates = Gates(self._first_probabilities(), settings.sampling, settings.seed)
        self.learner = Learner(gates, settings, model.costs, weights, shards)

    @classmethod
    def uses(cls, settings: TrainSettings) -> frozenset[str]:
        return super().uses(settings) - (_REGULARISERS if settings.control == "project" else set())

    @property
    def done(self) -> int:  # type: ignore[override]
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
