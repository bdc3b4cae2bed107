"""What is said after each pass of a training, and how one is ended early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class StopTraining(Exception):
    """Raise it in a progress callback, or in a denoiser's `predict`, to end training; what was learned is kept."""


@dataclass(frozen=True)
class Progress:
    """After a pass.

    Args:
        loss: of search and exchange, the mask's mean relative L2 error on the held-out noises; else the feature loss.
        share: of the multiply-adds, that the probabilities stand for.
        settled: share of the probabilities that are near 0 or 1.
    """

    stage: Literal["train", "refine"]
    done: int
    total: int
    loss: float
    share: float
    settled: float

    @property
    def speedup(self) -> float:
        """Expected ratio of multiply-adds."""
        return 1 / self.share
