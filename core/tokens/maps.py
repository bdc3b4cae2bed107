"""Token maps: run a layer on fewer tokens and bring the result back to all of them.

:class:`Pairs` says for each token which token it shares, and what becomes of those that share one: their mean (merging)
or the one that is kept (pruning). :class:`TokenMap` is that, prepared as flat indices for one batch: `reduce` is one
index_select (and one index_add for means), `expand` is one index_select.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Literal

import torch
from torch import Tensor

from .grid import Partition

Combine = Literal["mean", "keep"]


@dataclass(frozen=True)
class Pairs:
    """Who goes with whom, per sample.

    partner [B, N]: a token's own position, or the position of the token that stands for it.
    merged: how many tokens of each sample have another stand for them, known on the host so that reuse never waits for
        the device.
    combine: a token that stands for others becomes the "mean" of them all (merging), or is kept as it is, "keep" (pruning).
    """

    partner: Tensor
    merged: tuple[int, ...]
    combine: Combine = "mean"

    def rows(self, start: int, stop: int) -> Pairs:
        """The pairs of samples `start` to `stop`."""
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
    """The step that merged counts are rounded down to: N/16 rounded to a multiple of 32 (at least 32 when N/16 >= 16)."""
    if isinstance(bucket, int):
        return bucket
    return max(32, round(tokens / 16 / 32) * 32) if tokens >= 256 else max(1, tokens // 16)


def counts_above(
    score: Tensor, threshold: float, bucket: int, shared: bool, inclusive: bool = False
) -> tuple[int, ...]:
    """score [B, n_src] -> tokens to merge per sample: those with score > threshold, rounded down to `bucket`.

    shared: the largest count serves the whole batch. inclusive: a score equal to the threshold counts too. Both are the
    released code's ways. This is the only wait for the device.
    """
    found = (score >= threshold if inclusive else score > threshold).sum(dim=1).tolist()
    counts = [max(found)] * len(found) if shared else found
    return tuple(floor(c / bucket) * bucket for c in counts)


def select_pairs(
    score: Tensor, best: Tensor, partition: Partition, counts: tuple[int, ...], combine: Combine = "mean"
) -> Pairs:
    """score, best [B, n_src] as :func:`best_pairs` gives them -> pairs with each sample's `counts` most similar sources merged."""
    batch, tokens = score.shape[0], partition.grid.tokens
    partner = torch.arange(tokens, device=score.device).repeat(batch, 1)
    for count in sorted(set(counts) - {0}):
        rows = [b for b, c in enumerate(counts) if c == count]
        whole = len(rows) == batch
        at = slice(None) if whole else _upload(rows, score.device)
        chosen = score[at].topk(count, dim=1, sorted=False).indices
        target = _looked_up(partition.dst, best[at].gather(1, chosen), at)
        merged = partner[at].scatter_(1, _looked_up(partition.src, chosen, at), target)
        if not whole:
            partner[at] = merged
    return Pairs(partner, counts, combine)


def _looked_up(positions: Tensor, index: Tensor, rows: slice | Tensor) -> Tensor:
    """positions [n] of all samples, or [B, n] of which these rows are meant, at index [rows, k]."""
    return positions[index] if positions.ndim == 1 else positions[rows].gather(1, index)


class TokenMap:
    """Flat indices for one batch of pairs. Samples that keep equally many tokens form one group and run together.

    groups: samples of each group. kept: tokens left in each group's samples.
    """

    def __init__(self, pairs: Pairs) -> None:
        """Prepare the indices on the pairs' device, without waiting for it."""
        batch, tokens = pairs.partner.shape
        self.shape = (batch, tokens)
        self.groups = _groups(pairs.merged)
        self.kept = [tokens - pairs.merged[group[0]] for group in self.groups]
        self.identity = not any(pairs.merged)
        self._means: _Means | None = None
        if not self.identity:
            self._prepare(pairs)

    def _prepare(self, pairs: Pairs) -> None:
        device, (batch, tokens) = pairs.partner.device, self.shape
        position = torch.arange(tokens, device=device)
        keep = pairs.partner == position
        order = [b for group in self.groups for b in group]
        slot_base = _bases(order, [tokens - m for m in pairs.merged], device)
        total = batch * tokens - sum(pairs.merged)
        everyone = torch.arange(batch * tokens, device=device)
        slots = slot_base + keep.cumsum(1) - 1
        self._slot = slots.gather(1, pairs.partner).flatten()
        self._source = _placed(everyone, slots, keep, total)
        self._rows = [_upload(group, device) for group in self.groups]
        if pairs.combine == "mean":
            merged_base = _bases(order, list(pairs.merged), device)
            merged = _placed(everyone, merged_base + (~keep).cumsum(1) - 1, ~keep, sum(pairs.merged))
            self._means = _Means(merged, self._slot.index_select(0, merged), total)

    def reduce(self, x: Tensor) -> list[Tensor]:
        """x [B, N, C] -> per group [B_g, N_g, C]: the kept tokens, as they are or as means of all that they stand for."""
        if self.identity:
            return [x]
        flat = x.reshape(-1, x.shape[-1])
        kept = flat.index_select(0, self._source)
        return self._split(self._means.of(flat, kept) if self._means else kept)

    def expand(self, parts: list[Tensor]) -> Tensor:
        """Per group [B_g, N_g, C'] -> [B, N, C']: every token takes the row of the token that it shares."""
        if self.identity:
            return parts[0]
        channels = parts[0].shape[-1]
        flat = torch.cat([p.reshape(-1, channels) for p in parts]) if len(parts) > 1 else parts[0].reshape(-1, channels)
        return flat.index_select(0, self._slot).view(*self.shape, channels)

    def log_sizes(self) -> list[Tensor]:
        """Per group [B_g, N_g]: log of how many tokens each kept token stands for (proportional attention)."""
        if self._means is None:
            return [torch.zeros(len(g), k) for g, k in zip(self.groups, self.kept, strict=True)]
        return self._split(self._means.size.log().unsqueeze(1), squeeze=True)

    def rows(self, x: Tensor) -> list[Tensor]:
        """Split a batch-first tensor [B, ...] by group."""
        return [x.index_select(0, rows) for rows in self._rows] if len(self.groups) > 1 else [x]

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        if self.identity:
            return 0
        return self._slot.nbytes + self._source.nbytes + (self._means.nbytes if self._means else 0)

    def _split(self, flat: Tensor, squeeze: bool = False) -> list[Tensor]:
        sizes = [len(g) * k for g, k in zip(self.groups, self.kept, strict=True)]
        parts = flat.split(sizes) if len(sizes) > 1 else (flat,)
        shaped = [p.view(len(g), k, -1) for p, g, k in zip(parts, self.groups, self.kept, strict=True)]
        return [p.squeeze(-1) for p in shaped] if squeeze else shaped


class _Means:
    """Which tokens are added to which slots, and how many tokens each slot stands for."""

    def __init__(self, merged: Tensor, slot: Tensor, total: int) -> None:
        """merged [m]: flat positions of merged tokens; slot [m]: where each goes, of `total`."""
        self._merged, self._slot = merged, slot
        self.size = torch.ones(total, device=merged.device).index_add_(
            0, slot, torch.ones_like(slot, dtype=torch.float32)
        )
        self._share = self.size.reciprocal().unsqueeze(1)

    def of(self, flat: Tensor, kept: Tensor) -> Tensor:
        """Mean of each kept row [total, C] and the rows of flat [B * N, C] that go with it, summed in fp32."""
        out = kept.float().index_add_(0, self._slot, flat.index_select(0, self._merged).float())
        return out.mul_(self._share).to(flat.dtype)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.nbytes for t in (self._merged, self._slot, self.size, self._share))


def _groups(merged: tuple[int, ...]) -> list[list[int]]:
    return [[b for b, m in enumerate(merged) if m == count] for count in sorted(set(merged))]


def _bases(order: list[int], lengths: list[int], device: torch.device) -> Tensor:
    """[B, 1]: where each sample's entries begin when samples are laid out in `order`."""
    base, at = [0] * len(order), 0
    for b in order:
        base[b], at = at, at + lengths[b]
    return _upload(base, device).unsqueeze(1)


def _upload(values: list[int], device: torch.device) -> Tensor:
    """A list of indices on the device, without waiting for it (MPS cannot copy so)."""
    return torch.tensor(values).to(device, non_blocking=device.type == "cuda")


def _placed(items: Tensor, slots: Tensor, where: Tensor, total: int) -> Tensor:
    """items[i] at slots[i] for those with `where`; a trash slot takes the others, so that nothing has to be counted."""
    target = torch.where(where, slots, total).flatten()
    return items.new_empty(total + 1).scatter_(0, target, items)[:total]
