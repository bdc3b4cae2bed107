"""Training by exchange: runs of little worth are given up for runs that are worth more, at a fixed budget.

The mask stays binary. A pass estimates on new noise what each flip would change (:mod:`.flips`), and tries the most
promising pairs, at most one per block: several at once, then fewer. A :class:`Comparison` decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .flips import flip_values
from .learner import scored
from .local_search import budget
from .masked_model import MaskedModel
from .settings import TrainSettings
from .shards import Shards
from .strategy import BinaryStrategy

_MEMORY = 0.5
_IN_FILES = "adam_mean"
"""Name of the flips' values in checkpoints."""
Entry = tuple[int, int]


class Exchange(BinaryStrategy):
    """A binary mask, and a running mean [T, L] of what each flip would change.

    Args:
        model: to train on.
        settings: of the training.
        shards: this process's part.

    Example:
        >>> settings = TrainSettings(form="exchange", target=0.5, refine_batch=2, checkpointing="none")
        >>> exchange = Exchange(model, settings, Shards())
        >>> exchange.run_pass() > 0, exchange.done
        (True, 1)
    """

    reads = BinaryStrategy.reads | {"tries", "checkpointing"}

    def __init__(self, model: MaskedModel, settings: TrainSettings, shards: Shards) -> None:
        """Start from an interval mask; nothing is estimated before the first pass."""
        super().__init__(model, settings, shards)
        self.values = torch.zeros(model.shape)

    def run_pass(self) -> float:
        """One estimate, and exchanges by it. Returns the mask's error on the held-out noises."""
        recompute, seeds = self.settings.checkpointing != "none", self.seeds.batch(self.done)
        fresh = flip_values(self.model, self.run, seeds, self.shards, recompute=recompute)
        self.values = fresh if self.done == 0 else torch.lerp(fresh, self.values, _MEMORY)
        self._exchange(gainful_pairs(self.run, self.values.numpy(), self.model.costs.masked))
        self.done += 1
        return self.comparison.error

    def _exchange(self, pairs: list[tuple[Entry, Entry]]) -> None:
        """Change half of the pairs at once, then fewer and fewer, and keep what lowers the error."""
        fits = budget(self.model.costs, self.run, self.settings.ceiling)
        self.comparison.keep(self.run)
        count, tries = max(1, len(pairs) // 2), self.settings.tries
        while pairs and tries:
            candidate = exchanged(self.run, pairs[:count])
            tries -= 1
            better = fits(candidate) and self.comparison.better(candidate)
            if better:
                self.run = candidate
                self.comparison.keep(candidate)
            if better or count == 1:
                pairs = pairs[count:]
            count = count if better else max(1, count // 2)

    def scores(self) -> np.ndarray:
        """Worth of each run, [T, L]."""
        return scored(self.probabilities(), self.values)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state, for a checkpoint."""
        return {**super().tensors(), _IN_FILES: self.values}

    def restore(self, done: int, numbers: Mapping[str, float], tensors: Mapping[str, Tensor]) -> None:
        """See :class:`Strategy`."""
        super().restore(done, numbers, tensors)
        self.values = tensors[_IN_FILES]


def gainful_pairs(run: np.ndarray, values: np.ndarray, cost: np.ndarray) -> list[tuple[Entry, Entry]]:
    """(run to give up, run to gain) by falling predicted gain, each block in one pair only.

    Args:
        run: mask bool [T, L].
        values: change of the error by a run, [T, L]; negative where it helps.
        cost: of each block, [L]. Worth is counted per cost, so that pairs of unlike blocks keep the budget on average.

    Example:
        >>> run = np.array([[True, True], [True, False]])
        >>> gainful_pairs(run, np.array([[0.0, 0.0], [-1.0, -3.0]]), cost=np.ones(2))
        [((1, 0), (1, 1))]
    """
    worth = -values / cost
    worth[0] = np.inf
    lose = [(s, i) for s, i in _ordered(worth) if run[s, i]]
    gain = [(s, i) for s, i in _ordered(-worth) if not run[s, i]]
    pairs: list[tuple[Entry, Entry]] = []
    used: set[int] = set()
    while True:
        off = next((e for e in lose if e[1] not in used), None)
        on = next((e for e in gain if off is not None and e[1] not in used | {off[1]}), None)
        if off is None or on is None or worth[on] <= worth[off]:
            return pairs
        pairs.append((off, on))
        used |= {off[1], on[1]}


def exchanged(run: np.ndarray, pairs: Sequence[tuple[Entry, Entry]]) -> np.ndarray:
    """Return the mask with these pairs changed.

    Args:
        run: mask bool [T, L], which is not changed.
        pairs: (run to give up, run to gain), each (call, block).

    Example:
        >>> exchanged(np.array([[True, False]]), [((0, 0), (0, 1))]).tolist()
        [[False, True]]
    """
    run = run.copy()
    for off, on in pairs:
        run[off], run[on] = False, True
    return run


def _ordered(values: np.ndarray) -> list[Entry]:
    """Entries by rising value."""
    rows, blocks = np.unravel_index(np.argsort(values, axis=None, kind="stable"), values.shape)
    return list(zip(rows.tolist(), blocks.tolist(), strict=True))
