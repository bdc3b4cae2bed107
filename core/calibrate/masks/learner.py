"""The optimiser of the probabilities: regularisers, Adam on the rows that had a loss, and the budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...errors import MaskError
from .costs import Costs
from .gates import Gates
from .losses import bimodal, sparsity
from .settings import TrainSettings
from .shards import Shards

_BETAS = (0.9, 0.99)
_DUAL_RATE = 0.5
_DUAL_DAMPING = 10.0
_ROUNDS = 40
_LONGEST = 3.0
"""Steps that share a scale are at most this many times lr."""


@dataclass
class AdamState:
    """Adam's moments [T, L], and each row's number of steps [T]."""

    mean: Tensor
    square: Tensor
    steps: Tensor

    @classmethod
    def of(cls, shape: tuple[int, int]) -> AdamState:
        """Before the first step."""
        return cls(torch.zeros(shape), torch.zeros(shape), torch.zeros(shape[0]))

    def update(self, row: int, grad: Tensor, shared: bool = False) -> Tensor:
        """The direction [L] of a row's next step, for a gradient [L].

        shared: one scale for all probabilities, the median of Adam's, so that steps keep the gradients' ratios. A projection
        onto the budget needs that: its shift is the same for all, and with Adam's own scales every worth would look alike.
        """
        self.steps[row] += 1
        self.mean[row].lerp_(grad, 1 - _BETAS[0])
        self.square[row].lerp_(grad.square(), 1 - _BETAS[1])
        count = float(self.steps[row])
        mean = self.mean[row] / (1 - _BETAS[0] ** count)
        scales = (self.square / (1 - _BETAS[1] ** self.steps.clamp_min(1))[:, None]).sqrt() + 1e-12
        if shared:
            return (mean / scales[self.steps > 0].median()).clamp(-_LONGEST, _LONGEST)
        return mean / scales[row]


@dataclass
class Learner:
    """Takes losses, moves probabilities. weights [T]: w(s) of Eq. 10. done: passes so far."""

    gates: Gates
    settings: TrainSettings
    costs: Costs
    weights: Tensor
    shards: Shards
    adam: AdamState = field(init=False)
    lambda1: float = field(init=False)
    done: int = 0
    excess: float = 0.0

    def __post_init__(self) -> None:
        self.adam = AdamState.of((len(self.gates), len(self.gates.rows[0])))
        self.lambda1 = 0.0 if self.settings.control == "project" else self.settings.lambda1
        self.begun_at = self.expected()

    @property
    def cost(self) -> Tensor:
        """Weights [L] of the blocks in the sparsity term, mean 1."""
        cost = torch.tensor(self.costs.masked, dtype=torch.float32)
        return cost / cost.mean() if self.settings.cost_weighted else torch.ones_like(cost)

    @property
    def lambda2(self) -> float:
        """The bi-modal term's weight: rises to its full size over the first third of the passes."""
        ramp = min(1.0, 3 * self.done / max(1, self.settings.passes))
        return ramp * self.settings.lambda2_ratio * self.lambda1

    def regulariser(self, call: int) -> Tensor:
        """w(s) (lambda1 R1 + lambda2 R2) of one row (Eq. 11)."""
        p = self.gates.rows[call]
        return self.weights[call] * (self.lambda1 * sparsity(p, self.cost) + self.lambda2 * bimodal(p))

    def step(self, loss: Tensor, calls: Iterable[int]) -> None:
        """One step on the rows of these calls, from a loss that they took part in."""
        rows = [s for s in calls if s > 0]
        if self.lambda1:
            loss = loss + torch.stack([self.regulariser(s) for s in rows]).sum().to(loss.device)
        loss.backward()
        for s in rows:
            grad = self.gates.rows[s].grad
            self.gates.rows[s].grad = None
            if grad is not None:
                step = self.adam.update(s, self.shards.mean(grad), self.settings.control == "project")
                self.gates.move(s, -self.settings.lr * step)
        self.gates.clamp()

    def expected(self) -> float:
        """Share of the multiply-adds that the probabilities stand for, less what liveness takes off their mask."""
        p = self.gates.values.numpy()
        sure = p > 0.5
        sure[0] = True
        return self.costs.expected(p) + self.costs.share(sure) - self.costs.expected(sure)

    def end_pass(self) -> None:
        """Bring the probabilities, or lambda1, nearer to the budget."""
        self.done += 1
        goal = self._goal()
        if self.settings.control == "dual":
            self._answer(self.expected() - goal)
        elif self.settings.control == "project":
            self._project(goal)

    def _answer(self, excess: float) -> None:
        """Dual ascent on log lambda1, with a term for the change of the excess, which damps it."""
        self.lambda1 *= float(np.exp(_DUAL_RATE * excess + _DUAL_DAMPING * (excess - self.excess)))
        self.excess = excess

    def _goal(self) -> float:
        """The budget, approached from where training began over the first third of the passes."""
        way = min(1.0, 3 * self.done / max(1, self.settings.passes))
        return self.begun_at + way * (self.settings.share - self.begun_at)

    def _project(self, goal: float) -> None:
        """Shift p by mu w(s) c_i, clamped, to the expected share `goal`: the size of lambda1 that this pass needed."""
        values = self.gates.values
        force = self.weights[:, None] * self.cost
        goal += self.costs.expected(values.numpy()) - self.expected()
        low, high = -2.0, 2.0
        for _ in range(_ROUNDS):
            mu = (low + high) / 2
            shifted = (values - mu * force).clamp(0, 1)
            shifted[0] = 1.0
            low, high = (mu, high) if self.costs.expected(shifted.numpy()) > goal else (low, mu)
        self.gates.assign(values - high * force)

    def scores(self) -> np.ndarray:
        """By which the mask is cut [T, L]: the probabilities; among equal ones, those whose loss falls most with them."""
        return scored(self.gates.values, self.adam.mean)

    def numbers(self) -> dict[str, float]:
        """The numbers of the state, for a checkpoint."""
        return {"lambda1": self.lambda1, "begun_at": self.begun_at, "excess": self.excess}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state, for a checkpoint."""
        adam = {f"adam_{name}": value for name, value in vars(self.adam).items()}
        return {"probabilities": self.gates.values, "generator": self.gates.generator.get_state(), **adam}

    def restore(self, done: int, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Take over a state. Raises :class:`MaskError`, and changes nothing, where the generator's is none."""
        try:
            torch.Generator().set_state(tensors["generator"])
        except RuntimeError:
            raise MaskError("has broken values of generator") from None
        self.gates.generator.set_state(tensors["generator"])
        self.gates.assign(tensors["probabilities"])
        self.adam = AdamState(tensors["adam_mean"], tensors["adam_square"], tensors["adam_steps"])
        self.done, self.lambda1 = done, float(numbers["lambda1"])
        self.begun_at, self.excess = float(numbers["begun_at"]), float(numbers["excess"])


def scored(probabilities: Tensor, slope: Tensor) -> np.ndarray:
    """Probabilities [T, L] as scores: among equal ones, a run is worth more where the loss falls more with it.

    slope [T, L]: change of the loss with each probability.
    """
    gain = -slope.numpy()
    return probabilities.numpy() + 1e-4 * gain / max(float(np.abs(gain).max()), 1e-30)
