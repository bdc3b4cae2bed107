"""Token merging in one run (CA-ToMe, arXiv 2501.00946)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..measure.macs import matching_macs
from ..recipe.token_merge import TokenMerge
from ..tokens.grid import Grid, Partition, drawn, top_left
from ..tokens.maps import bucket_size, counts_above, select_pairs
from ..tokens.matching import best_pairs
from .token_layer import PairSearch
from .token_part import Observer, PairsFound, TokenPart, seeded

__all__ = ["MergePart", "Observer", "PairsFound"]


class MergePart(TokenPart[TokenMerge]):
    """Merges tokens that are more similar to their destination than a threshold.

    Example:
        >>> from skipstone.core.engine.meter import Meter
        >>> from skipstone.core.plan.run import Horizon
        >>> part = MergePart(TokenMerge(threshold=0.5, bucket=1), [], Horizon(), Meter())
        >>> part.find(0, torch.ones(1, 16, 8), Grid(4, 4, 1), crossing="").pairs.merged  # 4 destinations stay
        (12,)
    """

    verb = "merged"

    @property
    def shared(self) -> bool:
        """Whether all samples of a batch merge the largest count."""
        return self.settings.batch == "max"

    @property
    def frames_together(self) -> int:
        """Neighbouring frames of a video whose tokens are compared with each other."""
        return self.settings.frames

    def find(self, number: int, raw: Tensor, grid: Grid, crossing: str) -> PairSearch:
        """Partition, match and select (CA-ToMe, section III-A). Waits for the device once.

        Args:
            number: the layer's place in the network, part of the random seed.
            raw: hidden state [B, N, C].
            grid: the tokens as a picture.
            crossing: what may read other rows of the batch, so that all need one count; "" for nothing.
        """
        if crossing and not self.shared:
            self.meter.note(f"{crossing} may read other rows: all samples of a batch merge equally many tokens")
        settings, partition = self.settings, self._partition(number, grid, raw.device)
        score, best = best_pairs(raw, partition, settings.matching)
        bucket = bucket_size(grid.tokens, settings.bucket)
        counts = counts_above(score, settings.threshold, bucket, self.shared or bool(crossing), inclusive=self.shared)
        return PairSearch(
            select_pairs(score, best, partition, counts), matching_macs(partition, raw, settings.matching)
        )

    def _partition(self, number: int, grid: Grid, device: torch.device) -> Partition:
        settings = self.settings
        if settings.destination == "top_left":
            return top_left(grid, settings.stride, device)
        return drawn(grid, settings.stride, seeded(settings.seed, number, self.epoch), device)
