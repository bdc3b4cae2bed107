"""Attention on fewer picture tokens beside text, against loops over tokens: nothing but picture tokens is touched."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from skipstone.core.tokens.grid import Grid
from skipstone.core.tokens.maps import Combine, Pairs, TokenMap
from skipstone.core.tokens.span import (
    Span,
    Spell,
    biased,
    picture_sizes,
    reduced,
    reduced_masks,
    treats_alike,
)

TEXT = 3
SPANS = [
    Span(TEXT, 1, Grid(2, 3, 2), total=9),
    Span(0, 1, Grid(2, 3, 2), total=9),
    Span(2, 2, Grid(2, 2, 2), total=11),
    Span(0, 2, Grid(2, 2, 2), total=8),
]
SAMPLES = 3


def by_frames(span: Span, combine: Combine) -> Pairs:
    """In each frame of each sample, one token or two join the frame's first one."""
    rows, size = SAMPLES * span.frames, span.grid.tokens
    partner, gone = torch.arange(size).repeat(rows, 1), [1 + row % 2 for row in range(rows)]
    for row, count in enumerate(gone):
        partner[row, size - count :] = 0
    return Pairs(partner, tuple(gone), combine)


def alone(span: Span, pairs: Pairs) -> Pairs:
    """Pairs inside frames, as pairs of picture tokens."""
    return span.joined([(Spell(0, span.frames, 1), pairs)])


def slow(span: Span, pairs: Pairs, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Lists of the tokens that each key stands for, and attention by one logit at a time; each counts for its tokens."""
    out = torch.zeros_like(v)
    for b in range(SAMPLES):
        groups: dict[int, list[int]] = {i: [] for i in range(span.total)}
        for i in range(span.total):
            frame, place = divmod(i - span.start, span.grid.tokens)
            inside = 0 <= i - span.start < span.tokens
            found = int(pairs.partner[b * span.frames + frame, place]) if inside else 0
            groups[span.start + frame * span.grid.tokens + found if inside else i].append(i)
        groups = {i: members for i, members in groups.items() if members}

        def of(x: Tensor, head: int, i: int, b: int = b, groups: dict = groups) -> Tensor:
            return x[b, head, groups[i]].mean(0) if pairs.combine == "mean" else x[b, head, i]

        sizes = torch.tensor([float(len(members)) for members in groups.values()])
        for head in range(q.shape[1]):
            values = torch.stack([of(v, head, j) for j in groups])
            for i in range(span.total):
                logits = torch.stack([q[b, head, i] @ of(k, head, j) / sqrt(q.shape[3]) for j in groups])
                out[b, head, i] = (logits + sizes.log()).softmax(0) @ values
    return out


@pytest.mark.parametrize("span", SPANS, ids=["text first", "picture first", "video within text", "video alone"])
@pytest.mark.parametrize("combine", ["mean", "keep"])
def test_attention_on_fewer_keys_is_that_of_the_slow_reference(span: Span, combine: Combine) -> None:
    q, k, v = torch.randn(3, SAMPLES, 2, span.total, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    pairs = by_frames(span, combine)
    token_map = TokenMap(span.widened(alone(span, pairs)))
    assert len(token_map.groups) == (2 if span.frames == 1 else 1)
    parts = zip(token_map.rows(q), reduced(k, token_map), reduced(v, token_map), token_map.log_sizes(), strict=True)
    outputs = [F.scaled_dot_product_attention(*qkv, biased(None, bias)) for *qkv, bias in parts]
    torch.testing.assert_close(token_map.regrouped(outputs), slow(span, pairs, q, k, v))


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("combine", ["mean", "keep"])
def test_text_passes_without_a_bit_changed(span: Span, combine: Combine) -> None:
    """Also in half precision, as means are made in single precision."""
    x = torch.randn(SAMPLES, 2, span.total, 4).to(torch.bfloat16)
    token_map = TokenMap(span.widened(alone(span, by_frames(span, combine))))
    before, after = x[:, :, : span.start], x[:, :, span.start + span.tokens :]
    for rows, part in zip(token_map.groups, reduced(x, token_map), strict=True):
        assert torch.equal(part[:, :, : span.start], before[rows])
        assert torch.equal(part[:, :, part.shape[2] - after.shape[2] :], after[rows])


@pytest.mark.parametrize("kind", ["boolean", "additive"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 9), (SAMPLES, 1, 1, 9), (SAMPLES, 1, 9, 9), (9, 9)])
def test_a_mask_on_text_is_reduced_with_the_picture(shape: tuple[int, ...], kind: str) -> None:
    span, queries = SPANS[0], shape[-2] == 9
    mask = torch.ones(shape, dtype=torch.bool)
    mask[..., 1] = False
    if queries:
        mask[..., 1, :] = False
        mask[..., 1, 1] = True
    given = mask if kind == "boolean" else torch.zeros(shape).masked_fill(~mask, float("-inf"))
    assert treats_alike(given, span)
    q, k, v = torch.randn(3, SAMPLES, 2, 9, 4).unbind(0)
    token_map = TokenMap(span.widened(by_frames(span, "keep")))
    tensors = [token_map.rows(q), *(reduced(x, token_map) for x in (k, v))]
    for rows, q_g, k_g, v_g, mask_g in zip(
        token_map.groups, *tensors, reduced_masks(given, span, token_map), strict=True
    ):
        kept = [i for i in range(9) if i in set(token_map_partners(token_map, rows[0]))]
        whole = mask.expand(SAMPLES, 2, 9, 9)[rows][..., kept]
        wanted = F.scaled_dot_product_attention(q_g, k_g, v_g, whole)
        torch.testing.assert_close(F.scaled_dot_product_attention(q_g, k_g, v_g, mask_g), wanted)


def token_map_partners(token_map: TokenMap, sample: int) -> list[int]:
    """The tokens that stay of a sample."""
    positions = torch.arange(9.0).view(1, 9, 1).expand(SAMPLES, 9, 1)
    spread = token_map.expand(token_map.reduce(positions))
    return spread[sample].flatten().long().tolist()


def test_a_mask_that_differs_among_picture_tokens_is_seen() -> None:
    span = SPANS[0]
    for at in ((..., 5), (..., 5, slice(None))):
        mask = torch.ones(1, 1, 9, 9, dtype=torch.bool)
        mask[at] = False
        assert not treats_alike(mask, span)
        assert not treats_alike(torch.zeros(1, 1, 9, 9).masked_fill(~mask, -1.0), span)


def test_a_latents_tokens_are_counted_by_its_patches() -> None:
    wanted = {54: Grid(6, 9, 1), 15: Grid(3, 5, 2), 6: Grid(2, 3, 4), 2: Grid(1, 2, 8), 1: Grid(1, 1, 16)}
    assert picture_sizes((6, 9)) == {tokens: (1, grid) for tokens, grid in wanted.items()}
    video = picture_sizes((5, 4, 8))
    assert video[5 * 8] == (5, Grid(2, 4, 2)) and video[3 * 8] == (3, Grid(2, 4, 2))
    assert picture_sizes((77,)) == picture_sizes((2, 2, 2, 2)) == {}


def test_frames_that_are_left_over_stand_first() -> None:
    def spells(frames: int, together: int) -> list[tuple[int, int, int]]:
        return [tuple(spell) for spell in Span(0, frames, Grid(2, 2, 1), 4 * frames).spells(together)]

    assert spells(5, 1) == [(0, 5, 1)]
    assert spells(5, 2) == [(0, 1, 1), (1, 2, 2)]
    assert spells(4, 2) == [(0, 2, 2)]
    assert spells(2, 5) == [(0, 1, 2)]


@pytest.mark.parametrize(("frames", "together"), [(3, 2), (4, 2), (5, 3), (2, 1), (2, 4)])
def test_pairs_of_neighbouring_frames_are_found_where_their_tokens_stand(frames: int, together: int) -> None:
    """Each token of a spell's picture is itself again among the picture tokens, and so is its partner."""
    grid = Grid(2, 3, 2)
    span = Span(TEXT, frames, grid, total=TEXT + frames * grid.tokens + 2)
    x = torch.arange(float(span.total)).view(1, 1, -1, 1).repeat(SAMPLES, 2, 1, 1)
    x += 1000 * torch.arange(float(SAMPLES)).view(-1, 1, 1, 1)
    found, wanted = [], {}
    generator = torch.Generator().manual_seed(0)
    for spell in span.spells(together):
        pictures, tall = span.pictures(x, spell), span.picture_grid(spell)
        assert pictures.shape == (SAMPLES * spell.times, tall.tokens, 1) and tall.w == grid.w
        for row, column in ((r, c) for r in range(tall.h) for c in range(tall.w)):  # rows of frames take turns
            y, frame = divmod(row, spell.frames)
            place = TEXT + ((spell.first + frame) * grid.h + y) * grid.w + column
            assert float(pictures[0, row * tall.w + column]) == place
        partner = torch.randint(tall.tokens, (len(pictures), tall.tokens), generator=generator)
        found.append((spell, Pairs(partner, (spell.frames,) * len(pictures))))
        wanted |= dict(
            zip(pictures.flatten().tolist(), pictures.squeeze(2).gather(1, partner).flatten().tolist(), strict=True)
        )
    joined = span.joined(found)
    tokens = x[:, 0, TEXT : TEXT + span.tokens, 0]
    assert joined.merged == (sum(spell.times * spell.frames for spell, _ in found),) * SAMPLES
    partners = tokens.gather(1, joined.partner)
    assert dict(zip(tokens.flatten().tolist(), partners.flatten().tolist(), strict=True)) == wanted
