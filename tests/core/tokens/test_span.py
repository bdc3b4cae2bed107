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
    token_map = TokenMap(span.widened(span.joined(pairs)))
    assert len(token_map.groups) == (2 if span.frames == 1 else 1)
    parts = zip(token_map.rows(q), reduced(k, token_map), reduced(v, token_map), token_map.log_sizes(), strict=True)
    outputs = [F.scaled_dot_product_attention(*qkv, biased(None, bias)) for *qkv, bias in parts]
    torch.testing.assert_close(token_map.regrouped(outputs), slow(span, pairs, q, k, v))


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("combine", ["mean", "keep"])
def test_text_passes_without_a_bit_changed(span: Span, combine: Combine) -> None:
    """Also in half precision, as means are made in single precision."""
    x = torch.randn(SAMPLES, 2, span.total, 4).to(torch.bfloat16)
    token_map = TokenMap(span.widened(span.joined(by_frames(span, combine))))
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
