"""Token maps: selection and merging, against naive loops and as properties (CA-ToMe III-A)."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import tiny
import torch
from grids import partition_of, tokens
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from skipstone.core.tokens.grid import GRIDS_KEPT, Grid, Partition, cells_of, top_left
from skipstone.core.tokens.maps import Pairs, TokenMap, bucket_size, counts_above, select_pairs
from skipstone.core.tokens.matching import best_pairs, normalised

strides = st.tuples(st.integers(1, 4), st.integers(1, 4)).filter(lambda s: s != (1, 1))
sides = st.tuples(st.integers(4, 13), st.integers(4, 13))


@pytest.mark.parametrize("indices", [top_left, cells_of], ids=["partitions", "cells"])
def test_indices_of_many_sizes_do_not_stay_in_memory(indices: Any) -> None:
    def made(rows: int) -> Any:
        return weakref.ref(indices(Grid(rows, 4, 1), (2, 2), torch.device("cpu")).tiles)

    kept = [made(rows) for rows in range(2, 42)]
    gc.collect()
    assert [ref() is not None for ref in kept] == [False] * (40 - GRIDS_KEPT) + [True] * GRIDS_KEPT


def pairs_of(
    x: Tensor, partition: Partition, threshold: float, bucket: int = 1, shared: bool = False, matching: Any = "dense"
) -> Pairs:
    """Search and select as a layer does."""
    score, best = best_pairs(x, partition, matching)
    return select_pairs(score, best, partition, counts_above(score, threshold, bucket, shared))


def round_trip(token_map: TokenMap, x: Tensor) -> Tensor:
    """expand(reduce(x))."""
    return token_map.expand(token_map.reduce(x))


def naive_mean(pairs: Pairs, x: Tensor) -> Tensor:
    """Every token replaced by the mean of those that share its destination, by loops."""
    out = x.double().clone()
    for b, partner in enumerate(pairs.partner.tolist()):
        for target in set(partner):
            members = [i for i, p in enumerate(partner) if p == target]
            out[b, members] = x[b, members].double().mean(0)
    return out


# Selection (invariants 1-3, 6, 14)


@given(side=sides, stride=strides, seed=st.integers(0, 50), threshold=st.floats(-1, 1))
def test_each_sample_merges_its_own_pairs_above_the_threshold(
    side: Any, stride: Any, seed: int, threshold: float
) -> None:
    x, part = tokens(side, batch=3, seed=seed), partition_of(side, stride)
    score, best = best_pairs(x, part, "dense")
    pairs = pairs_of(x, part, threshold)
    assert pairs.merged == tuple((score > threshold).sum(1).tolist())
    for b in range(3):
        wanted = {s: part.dst[best[b, i]] for i, s in enumerate(part.src.tolist()) if score[b, i] > threshold}
        got = {i: p for i, p in enumerate(pairs.partner[b].tolist()) if i != p}
        assert got == wanted


def test_a_pair_exactly_at_the_threshold_stays_and_in_the_released_code_merges() -> None:
    """The paper merges pairs "greater than" the threshold."""
    score = torch.tensor([[0.5, 0.25, 0.75], [0.25, 0.25, 0.5]])
    assert counts_above(score, 0.5, 1, shared=False) == (1, 0)
    assert counts_above(score, 0.25, 1, shared=False) == (2, 1)
    assert counts_above(score, 0.5, 1, shared=False, inclusive=True) == (2, 1)
    assert counts_above(score, 0.25, 1, shared=False, inclusive=True) == (3, 3)


@given(seed=st.integers(0, 50), low=st.floats(-1, 1), high=st.floats(-1, 1))
def test_raising_the_threshold_never_merges_more(seed: int, low: float, high: float) -> None:
    x, part = tokens((8, 9), seed=seed), partition_of((8, 9), (2, 2))
    low, high = min(low, high), max(low, high)
    many, few = pairs_of(x, part, low), pairs_of(x, part, high)
    assert all(m >= f for m, f in zip(many.merged, few.merged, strict=True))
    merged_at_high = few.partner != torch.arange(72)
    assert torch.equal(few.partner[merged_at_high], many.partner[merged_at_high])


@given(side=sides, stride=strides, shared=st.booleans(), seed=st.integers(0, 9))
def test_threshold_minus_one_merges_all_sources(side: Any, stride: Any, shared: bool, seed: int) -> None:
    part = partition_of(side, stride)
    pairs = pairs_of(tokens(side, seed=seed), part, -1.0, shared=shared)
    assert pairs.merged == (len(part.src),) * 2
    assert TokenMap(pairs).kept == [len(part.dst)]


def test_nothing_above_the_threshold_is_the_identity() -> None:
    x = tokens((6, 6))
    token_map = TokenMap(pairs_of(x, partition_of((6, 6), (2, 2)), 2.0))
    assert token_map.identity
    assert round_trip(token_map, x) is x
    assert token_map.kept == [36]
    assert token_map.nbytes == 0


@given(seed=st.integers(0, 50), threshold=st.floats(-1, 1), bucket=st.integers(1, 20))
def test_shared_count_is_the_batchs_largest(seed: int, threshold: float, bucket: int) -> None:
    x, part = tokens((8, 8), batch=3, seed=seed), partition_of((8, 8), (2, 2))
    own, shared = pairs_of(x, part, threshold), pairs_of(x, part, threshold, shared=True)
    assert shared.merged == (max(own.merged),) * 3
    bucketed = pairs_of(x, part, threshold, bucket, shared=True)
    assert bucketed.merged == (max(own.merged) // bucket * bucket,) * 3
    score, _ = best_pairs(x, part, "dense")
    for b in range(3):
        merged = shared.partner[b][part.src] != part.src
        if merged.any() and not merged.all():
            assert score[b][merged].min() >= score[b][~merged].max()


@given(seed=st.integers(0, 50), threshold=st.floats(-1, 0.99), bucket=st.integers(1, 20))
def test_a_bucket_rounds_down_and_keeps_the_most_similar(seed: int, threshold: float, bucket: int) -> None:
    x, part = tokens((8, 8), seed=seed), partition_of((8, 8), (2, 2))
    exact, rounded = pairs_of(x, part, threshold), pairs_of(x, part, threshold, bucket)
    assert rounded.merged == tuple(m // bucket * bucket for m in exact.merged)
    score, _ = best_pairs(x, part, "dense")
    for b in range(2):
        merged = rounded.partner[b][part.src] != part.src
        if merged.any():
            assert score[b][merged].min() >= threshold
            if not merged.all():
                assert score[b][merged].min() >= score[b][~merged].max()


@pytest.mark.parametrize(
    ("count", "bucket"), [(4096, 256), (1024, 64), (256, 32), (64, 4), (16, 1), (4, 1), (9216, 576)]
)
def test_automatic_bucket_is_a_sixteenth_rounded_to_32(count: int, bucket: int) -> None:
    assert bucket_size(count, "auto") == bucket
    assert bucket_size(count, 5) == 5


# Merge and unmerge (invariants 7, 8, 9, 12, 13)


@given(
    side=sides, stride=strides, threshold=st.floats(-1, 1), bucket=st.integers(1, 9), seed=st.integers(0, 50),
    shared=st.booleans(), drawn_seed=st.none() | st.integers(0, 9),
)  # fmt: skip
def test_merging_equals_a_naive_loop(
    side: Any, stride: Any, threshold: float, bucket: int, seed: int, shared: bool, drawn_seed: int | None
) -> None:
    x, part = tokens(side, batch=3, seed=seed), partition_of(side, stride, drawn_seed)
    pairs = pairs_of(x, part, threshold, bucket, shared)
    token_map, values = TokenMap(pairs), tiny.noise(3, side[0] * side[1], 4, seed=seed + 1)
    out = round_trip(token_map, values)
    torch.testing.assert_close(out.double(), naive_mean(pairs, values), atol=1e-5, rtol=1e-5)
    untouched = torch.ones(pairs.partner.shape, dtype=torch.bool)
    for b, partner in enumerate(pairs.partner.tolist()):
        shared_tokens = [i for i, p in enumerate(partner) if partner.count(p) > 1]
        untouched[b, shared_tokens] = False
    assert torch.equal(out[untouched], values[untouched])


@given(side=sides, threshold=st.floats(-1, 0.9), seed=st.integers(0, 50))
def test_lengths_sums_and_fixed_points(side: Any, threshold: float, seed: int) -> None:
    x = tokens(side, batch=3, seed=seed)
    pairs = pairs_of(x, partition_of(side, (2, 2)), threshold)
    token_map, count = TokenMap(pairs), side[0] * side[1]
    parts = token_map.reduce(x)
    if not token_map.identity:
        lengths = {b: p.shape[1] for group, p in zip(token_map.groups, parts, strict=True) for b in group}
        assert lengths == {b: count - m for b, m in enumerate(pairs.merged)}
        assert sorted(b for group in token_map.groups for b in group) == [0, 1, 2]
        for group, part, log_size in zip(token_map.groups, parts, token_map.log_sizes(), strict=True):
            sums = (part.double() * log_size.exp().double()[..., None]).sum(1)
            torch.testing.assert_close(sums, x[group].double().sum(1), atol=1e-4, rtol=1e-4)
            assert torch.allclose(log_size.exp().sum(1), torch.tensor(float(count)), atol=1e-2)
    out = token_map.expand(parts)
    assert out.shape == x.shape
    torch.testing.assert_close(round_trip(token_map, out), out, atol=1e-5, rtol=1e-5)
    constant = torch.full_like(x, 0.5)
    torch.testing.assert_close(round_trip(token_map, constant), constant)


@given(seed=st.integers(0, 50), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_merging_is_linear(seed: int, a: float, b: float) -> None:
    token_map = TokenMap(pairs_of(tokens((8, 8), seed=seed), partition_of((8, 8), (2, 2)), 0.5))
    u, v = tiny.noise(2, 64, 3, seed=seed), tiny.noise(2, 64, 3, seed=seed + 1)
    combined = a * round_trip(token_map, u) + b * round_trip(token_map, v)
    torch.testing.assert_close(round_trip(token_map, a * u + b * v), combined, atol=1e-4, rtol=1e-4)


def test_equal_tokens_all_merge_and_come_back_unchanged() -> None:
    x = torch.full((2, 64, 5), 0.37)
    pairs = pairs_of(x, partition_of((8, 8), (2, 2)), 0.999)
    assert pairs.merged == (48, 48)
    torch.testing.assert_close(round_trip(TokenMap(pairs), x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_means_are_summed_in_fp32(dtype: torch.dtype) -> None:
    partner = torch.zeros(1, 4096, dtype=torch.long)
    values = torch.full((1, 4096, 2), 1.0, dtype=dtype)
    values[0, :, 1] = 100.0
    out = round_trip(TokenMap(Pairs(partner, (4095,))), values)
    assert torch.equal(out, values)


# Samples do not see each other (invariant 15)


@given(seed=st.integers(0, 50), threshold=st.floats(-1, 1), order=st.permutations(range(4)), bucket=st.integers(1, 9))
def test_permuting_samples_permutes_outputs_exactly(seed: int, threshold: float, order: list[int], bucket: int) -> None:
    x, part = tokens((8, 8), batch=4, seed=seed), partition_of((8, 8), (2, 2))
    straight = pairs_of(x, part, threshold, bucket)
    permuted = pairs_of(x[order], part, threshold, bucket)
    assert torch.equal(permuted.partner, straight.partner[order])
    values = tiny.noise(4, 64, 3, seed=seed)
    assert torch.equal(round_trip(TokenMap(permuted), values[order]), round_trip(TokenMap(straight), values)[order])


@given(seed=st.integers(0, 50), threshold=st.floats(-1, 1), bucket=st.sampled_from([1, "auto"]))
def test_a_samples_map_is_the_same_alone_and_in_a_batch(seed: int, threshold: float, bucket: Any) -> None:
    x, part = tokens((16, 16), batch=3, seed=seed), partition_of((16, 16), (2, 2))
    step = bucket_size(256, bucket)
    together = pairs_of(x, part, threshold, step)
    values = tiny.noise(3, 256, 3, seed=seed)
    batched = round_trip(TokenMap(together), values)
    for b in range(3):
        alone = pairs_of(x[b : b + 1], part, threshold, step)
        assert torch.equal(alone.partner[0], together.partner[b])
        assert torch.equal(round_trip(TokenMap(alone), values[b : b + 1])[0], batched[b])


def test_pairs_are_cut_and_joined_by_samples() -> None:
    pairs = pairs_of(tokens((8, 8), batch=4), partition_of((8, 8), (2, 2)), 0.8)
    joined = Pairs.cat([pairs.rows(0, 1), pairs.rows(1, 4)])
    assert torch.equal(joined.partner, pairs.partner)
    assert joined.merged == pairs.merged
    assert len(set(pairs.merged)) > 1


def test_rows_follow_the_groups() -> None:
    token_map = TokenMap(pairs_of(tokens((8, 8), batch=4), partition_of((8, 8), (2, 2)), 0.8))
    assert len(token_map.groups) > 1
    rows = token_map.rows(torch.arange(4))
    assert [r.tolist() for r in rows] == token_map.groups


def test_gradients_flow_through_a_map() -> None:
    pairs = pairs_of(tokens((4, 4), batch=1), partition_of((4, 4), (2, 2)), -1.0)
    x = tiny.noise(1, 16, 2).requires_grad_()
    round_trip(TokenMap(pairs), x).square().sum().backward()
    expected = tiny.noise(1, 16, 2).requires_grad_()
    weights = torch.stack([naive_mean(pairs, torch.eye(16)[None])[0]])
    (weights.float() @ expected).square().sum().backward()
    assert x.grad is not None and expected.grad is not None
    torch.testing.assert_close(x.grad, expected.grad)


# Number formats


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("matching", ["dense", "local"])
def test_zero_tokens_give_no_nan(dtype: torch.dtype, matching: Any) -> None:
    x = tokens((8, 8)).to(dtype)
    x[0, ::3] = 0
    x[1] = 0
    part = partition_of((8, 8), (2, 2))
    score, _ = best_pairs(x, part, matching)
    assert score.isfinite().all()
    assert (score[1] == 0).all()
    pairs = pairs_of(x, part, 0.0, matching=matching)
    out = round_trip(TokenMap(pairs), x)
    assert out.dtype == dtype
    assert out.isfinite().all()


def test_huge_half_precision_values_do_not_overflow() -> None:
    x = (tokens((8, 8)) * 3e4).clamp(-6e4, 6e4).half()
    assert normalised(x).isfinite().all()
    assert round_trip(TokenMap(pairs_of(x, partition_of((8, 8), (2, 2)), -1.0)), x).isfinite().all()
