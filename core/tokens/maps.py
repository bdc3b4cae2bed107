"""Token maps: run a layer on fewer tokens and bring the result back to all of them.

:class:`Pairs` lists the partner of each token. Tokens with one partner become their mean (merging) or the partner alone
(pruning). :class:`TokenMap` prepares pairs as flat indices for one batch: `reduce` is one index_select (for means another, an
index_add and a division), `expand` is one index_select.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from math import floor
from typing import Literal

import torch
from torch import Tensor

from .grid import Partition, positions

Combine = Literal["mean", "keep"]


@dataclass(frozen=True)
class Pairs:
    """The partner of each token, per sample.

    Args:
        partner: position of the token that represents each token [B, N]; its own where it is kept.
        merged: number of tokens of each sample that another represents. It is kept on the host, so that reuse never waits
            for the device.
        combine: "mean" represents tokens by their mean (merging), "keep" by the kept token as it is (pruning).

    Example:
        >>> pairs = Pairs(torch.tensor([[0, 0, 2], [0, 1, 2]]), merged=(1, 0))
        >>> pairs.rows(1, 2).merged, Pairs.cat([pairs, pairs]).merged
        ((0,), (1, 0, 1, 0))
    """

    partner: Tensor
    merged: tuple[int, ...]
    combine: Combine = "mean"

    def rows(self, start: int, stop: int) -> Pairs:
        """The pairs of some samples.

        Args:
            start: first sample.
            stop: sample after the last one.
        """
        return Pairs(self.partner[start:stop], self.merged[start:stop], self.combine)

    @staticmethod
    def cat(parts: list[Pairs]) -> Pairs:
        """Pairs of several groups of samples, as one batch."""
        if len(parts) == 1:
            return parts[0]
        merged = tuple(m for p in parts for m in p.merged)
        return Pairs(torch.cat([p.partner for p in parts]), merged, parts[0].combine)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.partner.nbytes


def bucket_size(tokens: int, bucket: int | str) -> int:
    """The step that merged counts are rounded down to, so that samples of a batch fall into few groups.

    Args:
        tokens: number of tokens N.
        bucket: the step itself, or "auto" for N / 16, rounded to a multiple of 32 (at least 32) from 256 tokens on.

    Example:
        >>> bucket_size(4096, "auto"), bucket_size(4096, 1)
        (256, 1)
    """
    if isinstance(bucket, int):
        return bucket
    return max(32, round(tokens / 16 / 32) * 32) if tokens >= 256 else max(1, tokens // 16)


def counts_above(
    score: Tensor, threshold: float, bucket: int, shared: bool, inclusive: bool = False
) -> tuple[int, ...]:
    """How many tokens of each sample to merge: those above the threshold (CA-ToMe section III-A).

    This is the only place where a run waits for the device.

    Args:
        score: similarity of each source to its best destination [B, n_src].
        threshold: sources above it are merged.
        bucket: counts are rounded down to a multiple of it.
        shared: use the largest count for all samples, as the released code does.
        inclusive: count scores equal to the threshold too, as the released code does.

    Example:
        >>> score = torch.tensor([[0.9, 0.8, 0.1], [0.9, 0.2, 0.1]])
        >>> counts_above(score, 0.7, 1, shared=False), counts_above(score, 0.7, 1, shared=True)
        ((2, 1), (2, 2))
    """
    found = (score >= threshold if inclusive else score > threshold).sum(dim=1).tolist()
    counts = [max(found)] * len(found) if shared else found
    return tuple(floor(c / bucket) * bucket for c in counts)


def select_pairs(
    score: Tensor, best: Tensor, partition: Partition, counts: tuple[int, ...], combine: Combine = "mean"
) -> Pairs:
    """Merge the most similar sources of each sample into their destinations.

    Args:
        score: similarity of each source to its best destination [B, n_src].
        best: that destination's index in `partition.dst` [B, n_src].
        partition: sources and destinations.
        counts: sources to merge, one number per sample.
        combine: what represents merged tokens, see :class:`Pairs`.

    Example:
        >>> from .grid import Grid, top_left
        >>> partition = top_left(Grid(1, 4, 1), (1, 2), torch.device("cpu"))
        >>> select_pairs(torch.tensor([[0.9, 0.2]]), torch.tensor([[1, 0]]), partition, (1,)).partner.tolist()
        [[0, 2, 2, 3]]
    """
    partner = positions(partition.grid.tokens, score.device).expand(len(counts), -1)
    if not any(counts):
        return Pairs(partner, counts, combine)
    most, uneven = max(counts), len(set(counts)) > 1
    chosen = score.topk(most, dim=1, sorted=uneven).indices
    at, target = _looked_up(partition.src, chosen), _looked_up(partition.dst, best.gather(1, chosen))
    if uneven:  # of the most similar ones of each sample, those past its own count stay their own partners
        wanted = positions(most, score.device) < _upload(list(counts), score.device).unsqueeze(1)
        target = torch.where(wanted, target, at)
    return Pairs(partner.scatter(1, at, target), counts, combine)


def _looked_up(places: Tensor, index: Tensor) -> Tensor:
    """Places at index [B, k]: of one list [n] for all samples, or of each sample's own [B, n]."""
    return places[index] if places.ndim == 1 else places.gather(1, index)


class TokenMap:
    """Pairs as flat indices for one batch. Samples that keep the same number of tokens form a group and run together.

    Attributes: `groups` lists the samples of each group, `kept` the tokens left in a sample of each group.

    Example:
        >>> tokens = TokenMap(Pairs(torch.tensor([[0, 0, 2]]), merged=(1,)))
        >>> reduced = tokens.reduce(torch.tensor([[[1.0], [3.0], [5.0]]]))
        >>> reduced[0].flatten().tolist(), tokens.expand(reduced).flatten().tolist()
        ([2.0, 5.0], [2.0, 2.0, 5.0])
    """

    def __init__(self, pairs: Pairs) -> None:
        """Prepare the indices on the pairs' device, without waiting for it."""
        batch, tokens = pairs.partner.shape
        self.shape = (batch, tokens)
        self.groups = _groups(pairs.merged)
        self.kept = [tokens - pairs.merged[group[0]] for group in self.groups]
        self.identity = not any(pairs.merged)
        self._merged: Tensor | None = None
        if not self.identity:
            self._prepare(pairs)

    def _prepare(self, pairs: Pairs) -> None:
        device, (batch, tokens) = pairs.partner.device, self.shape
        everyone = positions(batch * tokens, device)
        merged = (pairs.partner != positions(tokens, device)).flatten()
        # Kept tokens are laid out group by group, then sample by sample; a merged token shares its partner's slot.
        before = merged.cumsum(0)
        slots = everyone - before
        if shifts := self._shifts(pairs.merged):
            slots.view(batch, tokens).add_(_upload(shifts, device).unsqueeze(1))
        self._slot = slots.view(batch, tokens).gather(1, pairs.partner).flatten()
        kept = batch * tokens - sum(pairs.merged)
        # Kept tokens in the order of their slots, then all merged ones: a scatter, as boolean indexing waits for the device.
        place = torch.where(merged, before + (kept - 1), slots)
        order = torch.empty_like(place).scatter_(0, place, everyone)
        self._source, self._merged = order.tensor_split((kept,))
        if pairs.combine == "keep":
            self._source, self._merged = self._source.clone(), None

    def _shifts(self, merged: tuple[int, ...]) -> list[int]:
        """How far each sample's slots move when samples are laid out group by group; [] where none moves."""
        samples = [b for group in self.groups for b in group]
        kept = [self.shape[1] - count for count in merged]
        shifts = [sum(kept[s] for s in samples[: samples.index(b)]) - sum(kept[:b]) for b in range(len(kept))]
        return shifts if any(shifts) else []

    def reduce(self, x: Tensor) -> list[Tensor]:
        """The kept tokens of x [B, N, C], as they are or as means: one tensor [B_g, N_g, C] per group."""
        if self.identity:
            return [x]
        flat = x.reshape(-1, x.shape[-1])
        kept = flat.index_select(0, self._source)
        if self._merged is None:
            return self._split(kept)
        sums = kept.float().index_add_(0, self._partners, flat.index_select(0, self._merged).float())
        return self._split(sums.div_(self._sizes).to(x.dtype))

    def expand(self, parts: list[Tensor]) -> Tensor:
        """All tokens [B, N, C'] from one tensor [B_g, N_g, C'] per group: every token gets the row of its partner."""
        if self.identity:
            return parts[0]
        channels = parts[0].shape[-1]
        flat = torch.cat([p.reshape(-1, channels) for p in parts]) if len(parts) > 1 else parts[0].reshape(-1, channels)
        return flat.index_select(0, self._slot).view(*self.shape, channels)

    def log_sizes(self) -> list[Tensor]:
        """Log of how many tokens each kept token represents, [B_g, N_g] per group (proportional attention, ToMe, arXiv
        2210.09461, section 3)."""
        if self.identity:
            return [torch.zeros(len(g), k) for g, k in zip(self.groups, self.kept, strict=True)]
        return self._split(self._sizes.log(), squeeze=True)

    @cached_property
    def _sizes(self) -> Tensor:
        """How many tokens each kept token represents [total, 1]."""
        zero, one = (_constant(value, self._slot.device) for value in (0.0, 1.0))
        return zero.expand(len(self._source), 1).index_add(0, self._slot, one.expand(len(self._slot), 1))

    @cached_property
    def _partners(self) -> Tensor:
        """Slot of each merged token's partner, in their order."""
        assert self._merged is not None
        return self._slot.index_select(0, self._merged)

    def rows(self, x: Tensor) -> list[Tensor]:
        """The rows of x [B, ...], one tensor per group."""
        return [x.index_select(0, rows) for rows in self._rows] if len(self.groups) > 1 else [x]

    def regrouped(self, parts: list[Tensor]) -> Tensor:
        """Rows [B, ...] from those of :meth:`rows`, one tensor per group.

        Args:
            parts: one tensor [B_g, ...] per group.
        """
        return torch.cat(parts).index_select(0, self._back) if len(parts) > 1 else parts[0]

    @cached_property
    def _rows(self) -> list[Tensor]:
        """The samples of each group."""
        return [_upload(group, self._slot.device) for group in self.groups]

    @cached_property
    def _back(self) -> Tensor:
        """Where each sample stands when samples are laid out group by group [B]."""
        return torch.cat(self._rows).argsort()

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def _split(self, flat: Tensor, squeeze: bool = False) -> list[Tensor]:
        sizes = [len(g) * k for g, k in zip(self.groups, self.kept, strict=True)]
        parts = flat.split(sizes) if len(sizes) > 1 else (flat,)
        shaped = [p.view(len(g), k, -1) for p, g, k in zip(parts, self.groups, self.kept, strict=True)]
        return [p.squeeze(-1) for p in shaped] if squeeze else shaped


@cache
def _constant(value: float, device: torch.device) -> Tensor:
    """A number that is kept on its device, for all of its streams."""
    return torch.full((1,), value).to(device)


def _groups(merged: tuple[int, ...]) -> list[list[int]]:
    return [[b for b, m in enumerate(merged) if m == count] for count in sorted(set(merged))]


def _upload(values: list[int], device: torch.device) -> Tensor:
    """A list of indices on the device, without waiting for it (MPS cannot copy so)."""
    return torch.tensor(values).to(device, non_blocking=device.type == "cuda")
