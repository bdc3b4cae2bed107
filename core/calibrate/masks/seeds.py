"""The samples of a training: a seed stands for a noise and its conditioning, and no two purposes share one."""

from __future__ import annotations

from dataclasses import dataclass

from .settings import TrainSettings
from .shards import Shards

SEEDS_PER_TRAINING = 1 << 20
"""Training with seed s draws from s * SEEDS_PER_TRAINING on. torch's CPU generator reads the low 32 bits of a seed only."""
EVALUATION_SEEDS = 1 << 31
"""Seeds from here on are never trained on."""


@dataclass(frozen=True)
class TrainingSeeds:
    """The seeds of one training. Batches count up from its first seed, all other samples count down from its last.

    Args:
        settings: of the training.
        shards: this process's part.

    Example:
        >>> seeds = TrainingSeeds(TrainSettings(batch=2, refine_batch=2), Shards())
        >>> seeds.batch(0), seeds.batch(1), seeds.finding()
        ([0, 1], [2, 3], [1048575, 1048574])
    """

    settings: TrainSettings
    shards: Shards

    def batch(self, number: int) -> list[int]:
        """This process's samples of batch `number`."""
        first = self.settings.seed * SEEDS_PER_TRAINING + number * self.settings.batch
        return self.shards.part(range(first, first + self.settings.batch))

    def finding(self) -> list[int]:
        """This process's samples on which moves are found."""
        return self.shards.part(self._from_the_end(0, self.settings.refine_batch))

    def held_out(self) -> list[int]:
        """This process's samples on which a move must hold as well."""
        count = self.settings.refine_batch
        return self.shards.part(self._from_the_end(count, 2 * count))

    def rules(self) -> list[int]:
        """Samples on which rules measure the variation of features; the same on each process."""
        return self._from_the_end(0, min(self.settings.profile_batch, self.settings.refine_batch))

    def profile(self) -> list[int]:
        """This process's `profile_batch` samples for the weights w(s)."""
        return self.shards.part(self._from_the_end(0, self.settings.profile_batch * self.shards.count))

    def _from_the_end(self, first: int, end: int) -> list[int]:
        last = (self.settings.seed + 1) * SEEDS_PER_TRAINING - 1
        return [last - n for n in range(first, end)]
