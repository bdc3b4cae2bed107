"""Muon (Jordan et al. 2024) in the weights' own precision: torch's works in bfloat16, which many CPUs only emulate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum whose step on each matrix has all singular values near one; the size of a step is that of AdamW.

    Args:
        params: matrices.
        lr: learning rate, as of AdamW.
        momentum: of the gradient's average, Nesterov's.
        weight_decay: decoupled.

    Example:
        >>> matrix = torch.nn.Parameter(torch.eye(2))
        >>> matrix.grad = torch.eye(2)
        >>> Muon([matrix], lr=0.1).step()
        >>> round(matrix[0, 0].item(), 2)
        0.97
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change the matrices that have a gradient. A closure is not used."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._change(matrix, matrix.grad, group)

    def _change(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        average = self.state[matrix].setdefault("average", torch.zeros_like(matrix))
        average.lerp_(gradient, 1 - group["momentum"])
        direction = orthogonal(gradient.lerp(average, group["momentum"]))
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(direction, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors, and singular values between 0.7 and 1.2 (Newton-Schulz iteration).

    Args:
        matrix: [rows, columns].

    Example:
        >>> orthogonal(torch.diag(torch.tensor([1.0, 100.0]))).diagonal().min() > 0.2
        tensor(True)
    """
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
