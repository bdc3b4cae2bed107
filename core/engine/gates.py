"""Gates: decide during a run, from the network's input, whether it runs."""

from __future__ import annotations

from math import isfinite

from torch import Tensor

from ..recipe.call_skip import CallSkip


class Gate:
    """EasyCache's gate (arXiv 2507.02860): run when the output's predicted changes add up to a threshold.

    The change of the output is predicted as the change of the input times their last known ratio. Waits for the device once
    per call.

    Args:
        threshold: relative change of the output at which the network runs again.

    Example:
        >>> import torch
        >>> gate, one = Gate(threshold=0.5), torch.ones(1)
        >>> gate.ran(one, one), gate.ran(2 * one, 2 * one)  # the output changes as much as the input
        (None, None)
        >>> gate.opens(2.5 * one), gate.opens(3.5 * one)  # 0.25, then 0.75 of the output
        (False, True)
    """

    def __init__(self, threshold: float) -> None:
        """Start before the first call."""
        self._threshold = threshold
        self._input: Tensor | None = None
        self._known: tuple[Tensor, Tensor] | None = None
        self._ratio = self._size = self._sum = 0.0

    def opens(self, x: Tensor) -> bool:
        """Return whether the network runs on this input [rows, ...]."""
        change = _mean(x, self._input)
        self._input = x.detach().clone()
        if not self._ratio or not self._size:
            return True
        self._sum += self._ratio * change / self._size
        return self._sum >= self._threshold

    def ran(self, x: Tensor | None, output: Tensor) -> None:
        """Register a call that ran.

        Args:
            x: the network's input [rows, ...].
            output: its output [rows, ...].
        """
        if x is None:
            return
        if self._known is not None:
            moved, changed = _mean(x, self._known[0]), _mean(output, self._known[1])
            self._ratio = changed / moved if moved and isfinite(moved + changed) else 0.0
        self._known = x.detach().clone(), output.detach().clone()
        self._input, self._size, self._sum = self._known[0], float(output.abs().mean()), 0.0


def gate_of(settings: CallSkip) -> Gate | None:
    """Return the gate of the settings' rule; None for rules that choose calls ahead.

    Example:
        >>> gate_of(CallSkip(rule="even")) is None
        True
    """
    return Gate(settings.threshold) if settings.rule == "easycache" else None


def _mean(a: Tensor, b: Tensor | None) -> float:
    """Return the mean absolute difference; infinite for another shape."""
    return float((a.float() - b.float()).abs().mean()) if b is not None and a.shape == b.shape else float("inf")
