"""Which tokens are pruned and how they come back (DaTo): compared with loops, exact where nothing is computed."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import pytest
import tiny
import torch
from grids import tokens
from torch import Tensor

from skipstone.core.errors import Decline
from skipstone.core.tokens import matching
from skipstone.core.tokens.grid import Grid, Partition, chosen, drawn
from skipstone.core.tokens.maps import Pairs, TokenMap
from skipstone.core.tokens.prune import base_offsets, pooled, prune_count, prune_pairs, unit_deviation

SIDES = [((8, 8), (2, 2)), ((6, 10), (2, 2)), ((7, 9), (2, 3)), ((9, 5), (3, 2)), ((16, 24), (2, 2)), ((5, 4), (1, 4))]
grids = pytest.mark.parametrize(("side", "stride"), SIDES)


def scored(side: tuple[int, int], stride: tuple[int, int], batch: int = 2, seed: int = 3) -> tuple[Tensor, Partition]:
    """A score [B, h, w], and the partition whose bases are its best tokens."""
    score = tiny.noise(batch, *side, seed=seed)
    grid = Grid(*side, 1)
    return score, chosen(grid, stride, base_offsets(score, grid, stride))


def naive_bases(score: Tensor, stride: tuple[int, int]) -> list[int]:
    """score [h, w] -> position of the best token of each whole cell."""
    (h, w), (sy, sx) = score.shape, stride
    cells = [(r, c) for r in range(h // sy) for c in range(w // sx)]
    members = [[(sy * r + y) * w + sx * c + x for y in range(sy) for x in range(sx)] for r, c in cells]
    return [max(m, key=lambda n: float(score.flatten()[n])) for m in members]


def naive_prune(metric: Tensor, bases: list[int], count: int, recover_from: str) -> list[int]:
    """metric [N, C] -> partner of each token, by loops over the full N x N similarity."""
    unit = metric / metric.norm(dim=1, keepdim=True)
    similarity, everyone = (unit @ unit.T).tolist(), range(len(metric))
    best = {n: max(bases, key=lambda b: similarity[n][b]) for n in everyone if n not in bases}
    gone = sorted(best, key=lambda n: -similarity[n][best[n]])[:count]
    kept = [n for n in everyone if n not in gone]
    pool = bases if recover_from == "base" else kept
    return [max(pool, key=lambda b: similarity[n][b]) if n in gone else n for n in everyone]


@grids
def test_the_base_of_each_whole_cell_is_its_best_token(side: tuple[int, int], stride: tuple[int, int]) -> None:
    score, partition = scored(side, stride)
    for b in range(2):
        assert partition.dst[b].tolist() == naive_bases(score[b], stride)


@grids
def test_bases_and_others_are_together_all_tokens(side: tuple[int, int], stride: tuple[int, int]) -> None:
    _, partition = scored(side, stride)
    both = torch.cat([partition.src, partition.dst], 1)
    assert torch.equal(both.sort(1).values, torch.arange(side[0] * side[1]).expand(2, -1))


def test_of_equal_scores_the_first_of_a_cell_is_base() -> None:
    offsets = base_offsets(torch.zeros(1, 6, 6), Grid(6, 6, 1), (2, 3))
    assert offsets.tolist() == [[0] * 6]


def test_a_grid_without_a_whole_cell_is_declined() -> None:
    with pytest.raises(Decline, match="has no whole cell of 4x4"):
        base_offsets(torch.zeros(1, 3, 9), Grid(3, 9, 1), (4, 4))


@pytest.mark.parametrize("recover_from", ["base", "kept"])
@grids
def test_pruning_equals_loops_over_the_full_similarity(
    side: tuple[int, int], stride: tuple[int, int], recover_from: str
) -> None:
    score, partition = scored(side, stride)
    metric, count = tokens(side), prune_count(side[0] * side[1], 0.4)
    pairs = prune_pairs(metric, partition, count, "dense", recover_from)  # type: ignore[arg-type]
    assert pairs.merged == (count, count) and pairs.combine == "keep"
    for b in range(2):
        assert pairs.partner[b].tolist() == naive_prune(metric[b], naive_bases(score[b], stride), count, recover_from)


def test_the_pruned_count_is_the_exact_floor() -> None:
    for n in (1, 7, 100, 256, 1000, 4096):
        for percent in range(101):
            assert prune_count(n, percent / 100) == floor(n * Fraction(percent, 100))


@grids
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0])
def test_kept_and_pruned_part_all_tokens_and_no_base_is_pruned(
    side: tuple[int, int], stride: tuple[int, int], ratio: float
) -> None:
    tokens_in_all = side[0] * side[1]
    count = prune_count(tokens_in_all, ratio * (1 - 1 / (stride[0] * stride[1])))
    _, partition = scored(side, stride)
    pairs = prune_pairs(tokens(side), partition, count)
    own = torch.arange(tokens_in_all)
    for b in range(2):
        gone = (pairs.partner[b] != own).nonzero().flatten()
        assert len(gone) == count
        assert not set(gone.tolist()) & set(partition.dst[b].tolist())
        assert set(pairs.partner[b][gone].tolist()) <= set(partition.dst[b].tolist())


@grids
def test_the_most_similar_are_pruned(side: tuple[int, int], stride: tuple[int, int]) -> None:
    _, partition = scored(side, stride)
    metric, count = tokens(side), prune_count(side[0] * side[1], 0.3)
    score, _ = matching.best_pairs(metric, partition, "dense")
    pairs = prune_pairs(metric, partition, count)
    for b in range(2):
        gone = pairs.partner[b][partition.src[b]] != partition.src[b]
        assert score[b][gone].min() >= score[b][~gone].max()


@pytest.mark.parametrize("recover_from", ["base", "kept"])
@grids
def test_reduce_takes_kept_rows_and_expand_copies_them_back(
    side: tuple[int, int], stride: tuple[int, int], recover_from: str
) -> None:
    _, partition = scored(side, stride)
    pairs = prune_pairs(tokens(side), partition, prune_count(side[0] * side[1], 0.4), "dense", recover_from)  # type: ignore[arg-type]
    y, token_map = tiny.noise(2, side[0] * side[1], 3, seed=9), TokenMap(pairs)
    back = token_map.expand(token_map.reduce(y))
    assert torch.equal(back, y.gather(1, pairs.partner[..., None].expand(-1, -1, 3)))
    assert torch.equal(token_map.expand(token_map.reduce(back)), back)
    kept = pairs.partner == torch.arange(side[0] * side[1])
    assert torch.equal(back[kept], y[kept]) and bool(kept.gather(1, pairs.partner).all())
    assert [tuple(p.shape) for p in token_map.reduce(y)] == [(2, int(kept[0].sum()), 3)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_copied_without_rounding_and_zero_tokens_do_no_harm(dtype: torch.dtype) -> None:
    _, partition = scored((8, 8), (2, 2))
    metric = tokens((8, 8)).to(dtype)
    metric[:, 5:9] = 0
    token_map = TokenMap(prune_pairs(metric, partition, 25))
    (reduced,) = token_map.reduce(metric)
    assert reduced.dtype == dtype
    assert {tuple(row) for row in reduced[0].tolist()} <= {tuple(row) for row in metric[0].tolist()}


def test_a_pruned_map_holds_less_than_a_merged_one() -> None:
    _, partition = scored((8, 8), (2, 2))
    pairs = prune_pairs(tokens((8, 8)), partition, 25)
    assert TokenMap(pairs).nbytes < TokenMap(Pairs(pairs.partner, pairs.merged, "mean")).nbytes


def test_pairs_keep_their_rule_when_cut_and_joined() -> None:
    _, partition = scored((8, 8), (2, 2))
    pairs = prune_pairs(tokens((8, 8)), partition, 25)
    again = Pairs.cat([pairs.rows(0, 1), pairs.rows(1, 2)])
    assert torch.equal(again.partner, pairs.partner) and (again.merged, again.combine) == ((25, 25), "keep")


def test_permuting_samples_permutes_their_pairs() -> None:
    score, partition = scored((8, 8), (2, 2), batch=3)
    metric = tokens((8, 8), batch=3)
    order = torch.tensor([2, 0, 1])
    other = chosen(partition.grid, (2, 2), base_offsets(score[order], partition.grid, (2, 2)))
    a, b = prune_pairs(metric, partition, 20), prune_pairs(metric[order], other, 20)
    assert torch.equal(a.partner[order], b.partner)


@pytest.mark.parametrize("recover_from", ["base", "kept"])
def test_similarity_is_computed_in_chunks(monkeypatch: pytest.MonkeyPatch, recover_from: str) -> None:
    _, partition = scored((16, 16), (2, 2))
    whole = prune_pairs(tokens((16, 16)), partition, 100, "dense", recover_from)  # type: ignore[arg-type]
    sizes: list[int] = []
    product = torch.bmm
    monkeypatch.setattr(matching, "_CHUNK_ELEMENTS", 1000)
    monkeypatch.setattr(torch, "bmm", lambda a, b: (sizes.append(product(a, b).numel()), product(a, b))[1])
    chunked = prune_pairs(tokens((16, 16)), partition, 100, "dense", recover_from)  # type: ignore[arg-type]
    assert torch.equal(whole.partner, chunked.partner) and max(sizes) <= 1000 < sum(sizes)


@pytest.mark.parametrize("side", [(16, 16), (34, 38), (17, 21)])
def test_local_matching_of_chosen_bases_equals_that_of_a_shared_partition(side: tuple[int, int]) -> None:
    grid = Grid(*side, 1)
    shared = drawn(grid, (2, 2), torch.Generator().manual_seed(4), torch.device("cpu"))
    is_base = torch.zeros(1, grid.tokens).index_fill_(1, shared.dst, 1.0).view(1, *side)
    own = chosen(grid, (2, 2), base_offsets(is_base, grid, (2, 2)))
    metric = tokens(side, batch=1)
    found = []
    for partition in (shared, own):
        score, best = matching.best_pairs(metric, partition, "local")
        dst, src = partition.dst.view(1, -1), partition.src.view(1, -1)
        order = src.argsort(1)
        found.append((score.gather(1, order), dst.gather(1, best).gather(1, order)))
    assert torch.equal(found[0][1], found[1][1]) and torch.allclose(found[0][0], found[1][0])


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (7, 9)])
@pytest.mark.parametrize("downsample", [1, 2, 4])
def test_pooling_takes_the_mean_of_each_tokens_positions(size: tuple[int, int], downsample: int) -> None:
    d = tiny.noise(2, *size, seed=1).abs()
    grid = Grid(ceil(size[0] / downsample), ceil(size[1] / downsample), downsample)
    small = pooled(d, grid)
    assert small.shape == (2, grid.h, grid.w)
    for y in range(grid.h):
        for x in range(grid.w):
            part = d[:, y * downsample : (y + 1) * downsample, x * downsample : (x + 1) * downsample]
            assert torch.allclose(small[:, y, x], part.mean((1, 2)))


def test_normalised_dynamics_do_not_depend_on_their_scale() -> None:
    d = tiny.noise(3, 8, 8, seed=2).abs() * torch.tensor([1.0, 1e-3, 50.0]).view(3, 1, 1)
    assert torch.allclose(unit_deviation(d).std((1, 2)), torch.ones(3))
    assert torch.isfinite(unit_deviation(torch.full((1, 4, 4), 0.5))).all()
