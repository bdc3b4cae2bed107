"""Token merging in one run (CA-ToMe, arXiv 2501.00946)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..measure.macs import matching_macs
from ..recipe.token_merge import TokenMerge
from ..tokens.grid import Grid, Partition, drawn, top_left
from ..tokens.maps import bucket_size, counts_above, select_pairs
from ..tokens.matching import best_pairs
from .token_layer import Found
from .token_part import Observer, PairsFound, TokenPart, seeded

__all__ = ["MergePart", "Observer", "PairsFound"]


class MergePart(TokenPart[TokenMerge]):
    """Tokens more similar to their destination than a threshold become one with it."""

    verb = "merged"

    @property
    def shared(self) -> bool:
        """Does the largest count of a batch serve all its samples?"""
        return self.settings.batch == "max"

    def find(self, number: int, raw: Tensor, grid: Grid, crossing: str) -> Found:
        """Partition, match, select (section III-A). Waits for the device once."""
        if crossing and not self.shared:
            self.meter.note(
                f"{crossing} may look at other rows: the samples of a batch merge as many tokens (batch='max')"
            )
        settings, partition = self.settings, self._partition(number, grid, raw.device)
        score, best = best_pairs(raw, partition, settings.matching)
        bucket = bucket_size(grid.tokens, settings.bucket)
        counts = counts_above(score, settings.threshold, bucket, self.shared or bool(crossing), inclusive=self.shared)
        return Found(select_pairs(score, best, partition, counts), matching_macs(partition, raw, settings.matching))

    def _partition(self, number: int, grid: Grid, device: torch.device) -> Partition:
        settings = self.settings
        if settings.destination == "top_left":
            return top_left(grid, settings.stride, device)
        return drawn(grid, settings.stride, seeded(settings.seed, number, self.epoch), device)
