"""Picture tokens inside an attention's sequence, beside text, as frames of a grid, and what is reduced of it.

Merging and pruning after positions are applied act on keys and values. Text tokens always stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from .grid import Grid
from .maps import Pairs, TokenMap

_PATCHES = (1, 2, 4, 8, 16)
"""Sides of a token in latent positions."""
_FRAMES = (1, 2)
"""Latent frames that a token covers."""


class Spell(NamedTuple):
    """Neighbouring frames whose tokens are compared with each other.

    Args:
        first: number of the first frame.
        times: how many such spells follow each other.
        frames: frames of each.

    Example:
        >>> Span(start=0, frames=5, grid=Grid(2, 2, 1), total=20).spells(together=2)
        [Spell(first=0, times=1, frames=1), Spell(first=1, times=2, frames=2)]
    """

    first: int
    times: int
    frames: int


@dataclass(frozen=True)
class Span:
    """The picture tokens of a sequence.

    Args:
        start: place of the first one.
        frames: number of frames, 1 for a picture; one follows the other.
        grid: the tokens of a frame, row by row.
        total: length of the sequence.

    Example:
        >>> span = Span(start=7, frames=2, grid=Grid(4, 4, 2), total=39)
        >>> span.tokens, span.others
        (32, 7)
    """

    start: int
    frames: int
    grid: Grid
    total: int

    @property
    def tokens(self) -> int:
        """Number of picture tokens."""
        return self.frames * self.grid.tokens

    @property
    def others(self) -> int:
        """Number of the other tokens."""
        return self.total - self.tokens

    def spells(self, together: int) -> list[Spell]:
        """Divide the frames into spells of neighbours. The frames that are left over come first, as one spell of their own.

        Video autoencoders often encode the first frame by itself, so that it is the one to stand alone.

        Args:
            together: frames of a spell.
        """
        rest, times = self.frames % together, self.frames // together
        found = [Spell(0, 1, rest), Spell(rest, times, together)]
        return [spell for spell in found if spell.times and spell.frames]

    def pictures(self, x: Tensor, spell: Spell) -> Tensor:
        """Mean over the heads of some frames, each spell a picture: [B * times, frames * h * w, C].

        Rows of a spell's frames take turns, so that cells cover neighbouring frames.

        Args:
            x: tokens of the sequence [B, heads, total, C].
            spell: which frames.
        """
        begin, grid = self.start + spell.first * self.grid.tokens, self.grid
        part = x.narrow(2, begin, spell.times * spell.frames * grid.tokens).mean(1)
        tall = part.reshape(-1, spell.frames, grid.h, grid.w, x.shape[3]).transpose(1, 2)
        return tall.reshape(-1, spell.frames * grid.tokens, x.shape[3])

    def picture_grid(self, spell: Spell) -> Grid:
        """Return the grid of a spell's picture."""
        return replace(self.grid, h=self.grid.h * spell.frames)

    def joined(self, found: Sequence[tuple[Spell, Pairs]]) -> Pairs:
        """Join the pairs of all spells' pictures, as pairs of picture tokens [B, tokens]."""
        partners = [self._unfolded(spell, pairs.partner) for spell, pairs in found]
        counts = [
            [sum(pairs.merged[at : at + spell.times]) for at in range(0, len(pairs.merged), spell.times)]
            for spell, pairs in found
        ]
        return Pairs(torch.cat(partners, 1), tuple(map(sum, zip(*counts, strict=True))), found[0][1].combine)

    def _unfolded(self, spell: Spell, partner: Tensor) -> Tensor:
        """Partners in spells' pictures [B * times, frames * h * w], as places among the picture tokens [B, ...]."""
        size, grid = spell.frames * self.grid.tokens, self.grid
        natural = torch.arange(size, device=partner.device).view(spell.frames, grid.h, grid.w).transpose(0, 1).flatten()
        ours = torch.empty_like(partner)
        ours[:, natural] = natural[partner]
        begin = spell.first * grid.tokens + torch.arange(spell.times, device=partner.device) * size
        return (ours.view(-1, spell.times, size) + begin[:, None]).flatten(1)

    def widened(self, pairs: Pairs) -> Pairs:
        """Pairs of picture tokens [B, tokens], as pairs of the whole sequence [B, total]: other tokens have no partner."""
        if not self.others:
            return pairs
        partner = torch.arange(self.total, device=pairs.partner.device).repeat(len(pairs.partner), 1)
        partner.narrow(1, self.start, self.tokens).copy_(pairs.partner + self.start)
        return Pairs(partner, pairs.merged, pairs.combine)


def picture_sizes(latent: tuple[int, ...]) -> dict[int, tuple[int, Grid]]:
    """How many tokens a latent may have, by the size of its patches -> number of frames, and the grid of each.

    Args:
        latent: (H, W) of a picture, or (F, H, W) of a video; other sizes have none.

    Example:
        >>> {n: (frames, grid.h) for n, (frames, grid) in picture_sizes((2, 8, 8)).items()}[32]
        (2, 4)
    """
    if len(latent) not in (2, 3):
        return {}
    frames, (height, width) = (latent[0] if len(latent) == 3 else 1), latent[-2:]
    found: dict[int, tuple[int, Grid]] = {}
    for covered in _FRAMES[: 1 if frames == 1 else None]:
        for side in _PATCHES:
            grid, count = Grid(ceil(height / side), ceil(width / side), side), ceil(frames / covered)
            found.setdefault(count * grid.tokens, (count, grid))
    return found


def reduced(x: Tensor, token_map: TokenMap) -> list[Tensor]:
    """The kept tokens of x [B, heads, N, C], as they are or as means: one tensor [B_g, heads, N_g, C] per group.

    Args:
        x: keys or values [B, heads, N, C].
        token_map: which tokens are kept, or averaged.

    Example:
        >>> token_map = TokenMap(Pairs(torch.tensor([[0, 0, 2]]), merged=(1,)))
        >>> reduced(torch.tensor([1.0, 3.0, 5.0]).view(1, 1, 3, 1), token_map)[0].flatten().tolist()
        [2.0, 5.0]
    """
    heads = x.shape[1]
    return [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in token_map.reduce(_flat(x))]


def _flat(x: Tensor) -> Tensor:
    """[B, heads, N, C] -> [B, N, heads * C]; without a copy where the network made heads of channels."""
    return x.transpose(1, 2).flatten(2)


def treats_alike(mask: Tensor | None, span: Span) -> bool:
    """Whether a mask treats all picture tokens alike, so that it can be reduced with them. Waits for the device.

    Args:
        mask: [..., N or 1, N], boolean or additive; None for none.
        span: the picture tokens.

    Example:
        >>> span = Span(start=1, frames=1, grid=Grid(1, 2, 1), total=3)
        >>> mask = torch.tensor([[True, True, False]])
        >>> treats_alike(mask, span), treats_alike(mask.logical_not(), span), treats_alike(None, span)
        (False, False, True)
    """
    if mask is None:
        return True
    picture = [(mask.narrow(axis, span.start, span.tokens), axis) for axis in _axes(mask, span)]
    return all(torch.equal(part, part.narrow(axis, 0, 1).expand_as(part)) for part, axis in picture)


def reduced_masks(mask: Tensor | None, span: Span, token_map: TokenMap) -> list[Tensor | None]:
    """A mask that treats picture tokens alike, for the keys that each group keeps.

    Args:
        mask: [..., N or 1, N], with all samples of the batch in front if it differs by sample; None for none.
        span: the picture tokens.
        token_map: the map of the whole sequence.

    Example:
        >>> span = Span(start=1, frames=1, grid=Grid(1, 2, 1), total=3)
        >>> token_map = TokenMap(Pairs(torch.tensor([[0, 1, 1]]), merged=(1,)))
        >>> reduced_masks(torch.tensor([[False, True, True]]), span, token_map)[0].tolist()
        [[False, True]]
    """
    if mask is None:
        return [None] * len(token_map.groups)
    by_sample = mask.ndim > 2 and len(mask) == token_map.shape[0]
    rows = token_map.rows(mask) if by_sample else [mask] * len(token_map.groups)
    return [_fewer_keys(part, span, span.total - kept) for part, kept in zip(rows, token_map.kept, strict=True)]


def biased(mask: Tensor | None, bias: Tensor) -> Tensor:
    """A mask with a bias on the keys, as an additive one.

    Args:
        mask: [..., N or 1, N], boolean or additive; None for none.
        bias: added to the logits of each key [B, N].

    Example:
        >>> biased(torch.tensor([[[[True, False]]]]), torch.tensor([[0.5, 0.0]])).tolist()
        [[[[0.5, -inf]]]]
    """
    keys = bias[:, None, None, :]
    if mask is None:
        return keys
    return keys.masked_fill(mask.logical_not(), float("-inf")) if mask.dtype == torch.bool else mask + keys


def _axes(mask: Tensor, span: Span) -> list[int]:
    """The axes along which a mask has one entry per token: keys, and queries if they differ."""
    return [axis for axis in (-1, -2) if mask.ndim >= -axis and mask.shape[axis] == span.total]


def _fewer_keys(mask: Tensor, span: Span, gone: int) -> Tensor:
    """A mask without `gone` of the picture's keys. They are all alike, so that the last ones may go."""
    if -1 not in _axes(mask, span):
        return mask
    end = span.start + span.tokens
    return torch.cat([mask[..., : end - gone], mask[..., end:]], -1)
