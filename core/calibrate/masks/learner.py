"""The optimiser of the probabilities: regularisers, Adam on the rows that took part in a loss, and the budget."""

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
class _AdamState:
    """Adam's moments [T, L], and each row's number of steps [T]."""

    mean: Tensor
    square: Tensor
    steps: Tensor

    @classmethod
    def of(cls, shape: tuple[int, int]) -> _AdamState:
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
    """Moves probabilities down the gradients of losses, and to the budget.

    Args:
        gates: the probabilities.
        settings: of the training.
        costs: of the blocks.
        weights: w(s) of Eq. 10, [T].
        shards: this process's part.
        done: passes so far.
        adam: Adam's moments.
        lambda1: weight of the sparsity term.
        excess: share above the goal at the last pass (control "dual").

    Example:
        >>> gates = Gates(torch.full(model.shape, 0.5))
        >>> learner = Learner(gates, TrainSettings(control="fixed", lambda1=1.0), model.costs, torch.ones(4), Shards())
        >>> learner.step(torch.tensor(0.0), calls=[1])  # sparsity alone
        >>> bool((gates.values[1] < 0.5).all() and (gates.values[2] == 0.5).all())
        True
    """

    gates: Gates
    settings: TrainSettings
    costs: Costs
    weights: Tensor
    shards: Shards
    adam: _AdamState = field(init=False)
    lambda1: float = field(init=False)
    done: int = 0
    excess: float = 0.0

    def __post_init__(self) -> None:
        self.adam = _AdamState.of((len(self.gates), len(self.gates.rows[0])))
        self.lambda1 = 0.0 if self.settings.control == "project" else self.settings.lambda1
        self.begun_at = self.expected()

    @property
    def cost(self) -> Tensor:
        """Weights [L] of the blocks in the sparsity term; their mean is 1."""
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
        """Make one step on the rows of these calls.

        Args:
            loss: in which they took part.
            calls: their numbers; row 0 is never changed.
        """
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
        """Move the probabilities, or lambda1, towards the budget."""
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
        """Scores [T, L] by which the mask is cut: the probabilities; among equal ones, those with the steeper loss are higher."""
        return scored(self.gates.values, self.adam.mean)

    def numbers(self) -> dict[str, float]:
        """The numbers of the state, for a checkpoint."""
        return {"lambda1": self.lambda1, "begun_at": self.begun_at, "excess": self.excess}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state, for a checkpoint."""
        adam = {f"adam_{name}": value for name, value in vars(self.adam).items()}
        return {"probabilities": self.gates.values, "generator": self.gates.generator.get_state(), **adam}

    def restore(self, done: int, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """Set a saved state.

        Args:
            done: passes.
            numbers: of :meth:`numbers`.
            tensors: of :meth:`tensors`.

        Raises :class:`MaskError`, with nothing changed, if the generator's state is broken.
        """
        try:
            torch.Generator().set_state(tensors["generator"])
        except RuntimeError:
            raise MaskError("has broken values of generator") from None
        self.gates.generator.set_state(tensors["generator"])
        self.gates.assign(tensors["probabilities"])
        self.adam = _AdamState(tensors["adam_mean"], tensors["adam_square"], tensors["adam_steps"])
        self.done, self.lambda1 = done, float(numbers["lambda1"])
        self.begun_at, self.excess = float(numbers["begun_at"]), float(numbers["excess"])


def scored(probabilities: Tensor, slope: Tensor) -> np.ndarray:
    """Probabilities as scores: among equal ones, a run is worth more where the loss falls faster with it.

    Args:
        probabilities: [T, L].
        slope: change of the loss with each probability, [T, L].

    Example:
        >>> scores = scored(torch.tensor([[0.5, 0.5, 0.6]]), slope=torch.tensor([[-1.0, 1.0, 0.0]]))
        >>> scores[0].argsort().tolist()
        [1, 0, 2]
    """
    gain = -slope.numpy()
    return probabilities.numpy() + 1e-4 * gain / max(float(np.abs(gain).max()), 1e-30)
