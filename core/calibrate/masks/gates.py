"""The learned probabilities p [T, L], and gates drawn from them (Timestep-aware block masking, Eq. 4)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from .gated import CallGates

Sampling = Literal["bernoulli", "gumbel", "mean", "row"]
SAMPLINGS = get_args(Sampling)
_TEMPERATURE = 0.5
_EDGE = 1e-4
_RARE = 0.05
"""Least probability of either value in the sampling "row", whose weights grow with the inverse."""


class Gates:
    """Probabilities that a block runs at a call; row 0 is always 1, since nothing is cached before it.

    Args:
        start: probabilities [T, L].
        sampling: "bernoulli", straight-through (the paper's); "gumbel", hard samples with the gradient of a Gumbel-Softmax;
            "mean", the probability itself as the mixing weight; "row", one number decides on all blocks of a call, and gradients
            have the weights of :func:`_second_order`.
        seed: of the draws.

    Example:
        >>> gates = Gates(torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
        >>> gates.values[0].tolist(), gates.draw(1).runs.tolist()
        ([1.0, 1.0], [False, True])
    """

    def __init__(self, start: Tensor, sampling: Sampling = "bernoulli", seed: int = 0) -> None:
        """Start from these probabilities; draws use a generator of this object."""
        self.sampling = sampling
        self.rows = [nn.Parameter(row.clone().float()) for row in start]
        self.generator = torch.Generator().manual_seed(seed)
        self.clamp()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def values(self) -> Tensor:
        """The probabilities [T, L], without gradients."""
        return torch.stack([row.detach() for row in self.rows])

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        """Set the probabilities [T, L]."""
        for row, value in zip(self.rows, values, strict=True):
            row.copy_(value)
        self.clamp()

    @torch.no_grad()
    def move(self, call: int, by: Tensor) -> None:
        """Add [L] to one row.

        Args:
            call: number of the row.
            by: [L].
        """
        self.rows[call].add_(by)

    @torch.no_grad()
    def clamp(self) -> None:
        """Clamp all rows to [0, 1], and set row 0 to ones."""
        for row in self.rows:
            row.clamp_(0.0, 1.0)
        self.rows[0].fill_(1.0)

    def draw(self, call: int, device: torch.device | str = "cpu") -> CallGates:
        """Draw the gates of one call, one draw for the whole batch. All but row 0 carry gradients to the probabilities.

        Args:
            call: number of the call.
            device: of the gates.
        """
        p = self.rows[call]
        if call == 0:
            return CallGates(np.ones(len(p), dtype=bool))
        if self.sampling == "mean":
            return CallGates(None, p.to(device))
        uniform = torch.rand(1 if self.sampling == "row" else len(p), generator=self.generator)
        if self.sampling == "gumbel":
            soft = torch.sigmoid((_logit(p) + _logit(uniform)) / _TEMPERATURE)
            hard = soft.detach() > 0.5
            return CallGates(hard.numpy(), (hard.float() + soft - soft.detach()).to(device))
        if self.sampling == "row":
            likely = p.detach().clamp(_RARE, 1 - _RARE)
            hard = uniform < likely
            return CallGates(hard.numpy(), _straight_through(hard, p, _second_order(hard, likely)).to(device))
        hard = uniform < p.detach()
        return CallGates(hard.numpy(), _straight_through(hard, p).to(device))

    def fixed(self, call: int, runs: np.ndarray, device: torch.device | str = "cpu") -> CallGates:
        """Return given gates, with straight-through gradients to the probabilities.

        Args:
            call: number of the call.
            runs: bool [L].
            device: of the gates.
        """
        if call == 0:
            return CallGates(np.ones(len(runs), dtype=bool))
        return CallGates(runs, _straight_through(torch.from_numpy(runs), self.rows[call]).to(device))

    def settled(self, edge: float = 0.1) -> float:
        """Share of the probabilities that are outside (edge, 1 - edge)."""
        p = self.values[1:]
        return float(((p <= edge) | (p >= 1 - edge)).float().mean()) if len(p) else 1.0


def _straight_through(hard: Tensor, p: Tensor, slope: Tensor | float = 1.0) -> Tensor:
    """Gates [L] of the value `hard` with d gate / d p = slope."""
    return hard.float() + slope * (p - p.detach())


def _second_order(hard: Tensor, p: Tensor) -> Tensor:
    """Weights [L] with which straight-through gradients are on average the mean of those at 0 and at 1.

    ReinMax, arXiv 2304.08612. For a quadratic loss that is the effect of a gate; plain straight-through sees the gradient at the
    likelier value.
    """
    return torch.where(hard, 0.5 / p, 0.5 / (1 - p))


def _logit(p: Tensor) -> Tensor:
    return torch.logit(p.clamp(_EDGE, 1 - _EDGE))
