"""Token maps: run a layer on fewer tokens and bring the result back to all of them.

:class:`Pairs` says for each token which token it shares; :class:`TokenMap` is that, prepared as flat indices for one
batch: `reduce` is one index_select and one index_add, `expand` is one index_select.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from .grid import Partition


@dataclass(frozen=True)
class Pairs:
    """Who merges into whom, per sample.

    partner [B, N]: a token's own position, or the position of the destination that it merges into.
    merged: how many tokens of each sample merge, known on the host so that reuse never waits for the device.
    """

    partner: Tensor
    merged: tuple[int, ...]

    def rows(self, start: int, stop: int) -> Pairs:
        """The pairs of samples `start` to `stop`."""
        return Pairs(self.partner[start:stop], self.merged[start:stop])

    @staticmethod
    def cat(parts: list[Pairs]) -> Pairs:
        """Pairs of several groups of samples, as one batch."""
        if len(parts) == 1:
            return parts[0]
        return Pairs(torch.cat([p.partner for p in parts]), tuple(m for p in parts for m in p.merged))

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return self.partner.nbytes


def bucket_size(tokens: int, bucket: int | str) -> int:
    """The step that merged counts are rounded down to: N/16 rounded to a multiple of 32 (at least 32 when N/16 >= 16)."""
    if isinstance(bucket, int):
        return bucket
    return max(32, round(tokens / 16 / 32) * 32) if tokens >= 256 else max(1, tokens // 16)


def counts_above(score: Tensor, threshold: float, bucket: int, shared: bool) -> tuple[int, ...]:
    """score [B, n_src] -> tokens to merge per sample: those with score >= threshold, rounded down to `bucket`.

    shared: the largest count serves the whole batch (the released code). This is the only wait for the device.
    """
    found = (score >= threshold).sum(dim=1).tolist()
    counts = [max(found)] * len(found) if shared else found
    return tuple(floor(c / bucket) * bucket for c in counts)


def select_pairs(score: Tensor, best: Tensor, partition: Partition, counts: tuple[int, ...]) -> Pairs:
    """score, best [B, n_src] as :func:`best_pairs` gives them -> pairs with each sample's `counts` most similar sources merged."""
    batch, tokens = score.shape[0], partition.grid.tokens
    partner = torch.arange(tokens, device=score.device).repeat(batch, 1)
    for count in sorted(set(counts) - {0}):
        rows = [b for b, c in enumerate(counts) if c == count]
        whole = len(rows) == batch
        at = slice(None) if whole else _upload(rows, score.device)
        chosen = score[at].topk(count, dim=1, sorted=False).indices
        target = partition.dst[best[at].gather(1, chosen)]
        merged = partner[at].scatter_(1, partition.src[chosen], target)
        if not whole:
            partner[at] = merged
    return Pairs(partner, counts)


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
        if not self.identity:
            self._prepare(pairs)

    def _prepare(self, pairs: Pairs) -> None:
        device, (batch, tokens) = pairs.partner.device, self.shape
        position = torch.arange(tokens, device=device)
        keep = pairs.partner == position
        order = [b for group in self.groups for b in group]
        slot_base = _bases(order, [tokens - m for m in pairs.merged], device)
        merged_base = _bases(order, list(pairs.merged), device)
        total_merged = sum(pairs.merged)
        total = batch * tokens - total_merged
        everyone = torch.arange(batch * tokens, device=device)
        slots = slot_base + keep.cumsum(1) - 1
        self._slot = slots.gather(1, pairs.partner).flatten()
        self._source = _placed(everyone, slots, keep, total)
        self._merged = _placed(everyone, merged_base + (~keep).cumsum(1) - 1, ~keep, total_merged)
        self._merged_slot = self._slot.index_select(0, self._merged)
        size = torch.ones(total, device=device)
        self._size = size.index_add_(0, self._merged_slot, size.new_ones(total_merged))
        self._share = self._size.reciprocal().unsqueeze(1)
        self._rows = [_upload(group, device) for group in self.groups]

    def reduce(self, x: Tensor) -> list[Tensor]:
        """x [B, N, C] -> per group [B_g, N_g, C]: tokens that share a destination become their mean (summed in fp32)."""
        if self.identity:
            return [x]
        flat = x.reshape(-1, x.shape[-1])
        out = flat.index_select(0, self._source).float()
        out.index_add_(0, self._merged_slot, flat.index_select(0, self._merged).float())
        out.mul_(self._share)
        return self._split(out.to(x.dtype))

    def expand(self, parts: list[Tensor]) -> Tensor:
        """Per group [B_g, N_g, C'] -> [B, N, C']: every token takes the row of the token that it shares."""
        if self.identity:
            return parts[0]
        channels = parts[0].shape[-1]
        flat = torch.cat([p.reshape(-1, channels) for p in parts]) if len(parts) > 1 else parts[0].reshape(-1, channels)
        return flat.index_select(0, self._slot).view(*self.shape, channels)

    def log_sizes(self) -> list[Tensor]:
        """Per group [B_g, N_g]: log of how many tokens each kept token stands for (proportional attention)."""
        if self.identity:
            return [torch.zeros(self.shape)]
        return self._split(self._size.log().unsqueeze(1), squeeze=True)

    def rows(self, x: Tensor) -> list[Tensor]:
        """Split a batch-first tensor [B, ...] by group."""
        return [x.index_select(0, rows) for rows in self._rows] if len(self.groups) > 1 else [x]

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        if self.identity:
            return 0
        held = (self._slot, self._source, self._merged, self._merged_slot, self._size, self._share)
        return sum(t.nbytes for t in held)

    def _split(self, flat: Tensor, squeeze: bool = False) -> list[Tensor]:
        sizes = [len(g) * k for g, k in zip(self.groups, self.kept, strict=True)]
        parts = flat.split(sizes) if len(sizes) > 1 else (flat,)
        shaped = [p.view(len(g), k, -1) for p, g, k in zip(parts, self.groups, self.kept, strict=True)]
        return [p.squeeze(-1) for p in shaped] if squeeze else shaped


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
