"""Grids, their partition into sources and destinations, and matching, against naive loops (CA-ToMe III-A)."""

from __future__ import annotations

from math import ceil
from typing import Any

import pytest
import torch
from grids import partition_of, tokens
from hypothesis import given
from hypothesis import strategies as st

from skipstone.core.errors import Decline
from skipstone.core.tokens.grid import Grid, grid_of
from skipstone.core.tokens.matching import best_pairs
from skipstone.core.tokens.tiles import TILE_CELLS

strides = st.tuples(st.integers(1, 4), st.integers(1, 4)).filter(lambda s: s != (1, 1))
sides = st.tuples(st.integers(4, 13), st.integers(4, 13))


# The grid of a layer


@pytest.mark.parametrize(
    ("latent", "count", "expected"),
    [
        ((64, 64), 4096, Grid(64, 64, 1)),
        ((64, 64), 1024, Grid(32, 32, 2)),
        ((64, 64), 64, Grid(8, 8, 8)),
        ((65, 48), 33 * 24, Grid(33, 24, 2)),
        ((65, 48), 17 * 12, Grid(17, 12, 4)),
        ((1, 1), 1, Grid(1, 1, 1)),
        ((96, 1), 96, Grid(96, 1, 1)),
        ((5, 7), 3 * 4, Grid(3, 4, 2)),
        ((33, 36), 5 * 5, Grid(5, 5, 8)),
    ],
)
def test_grid_of_a_downsampled_latent(latent: tuple[int, int], count: int, expected: Grid) -> None:
    assert grid_of(latent, count) == expected


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 2, 4, 8]))
def test_a_grid_always_holds_exactly_the_tokens(h: int, w: int, ds: int) -> None:
    count = ceil(h / ds) * ceil(w / ds)
    try:
        grid = grid_of((h, w), count)
    except Decline:
        assert ds > 1
        return
    assert grid.tokens == count
    assert (grid.h, grid.w) == (ceil(h / grid.downsample), ceil(w / grid.downsample))


@pytest.mark.parametrize(("latent", "count"), [((64, 64), 4097), ((64, 64), 4096 + 77), ((64, 64), 1000), ((4, 4), 0)])
def test_tokens_that_are_no_grid_are_declined_in_one_line(latent: tuple[int, int], count: int) -> None:
    with pytest.raises(Decline, match=f"{count} tokens") as reason:
        grid_of(latent, count)
    assert "\n" not in str(reason.value)


# Partition (invariants 4 and 5)


@given(side=sides, stride=strides, seed=st.none() | st.integers(0, 99))
def test_sources_and_destinations_are_all_tokens_once(side: Any, stride: Any, seed: int | None) -> None:
    part = partition_of(side, stride, seed)
    assert sorted([*part.src.tolist(), *part.dst.tolist()]) == list(range(side[0] * side[1]))
    assert len(part.dst) == (side[0] // stride[0]) * (side[1] // stride[1])


@given(side=sides, stride=strides)
def test_top_left_destinations(side: Any, stride: Any) -> None:
    (h, w), (sy, sx) = side, stride
    expected = [sy * i * w + sx * j for i in range(h // sy) for j in range(w // sx)]
    part = partition_of(side, stride)
    assert part.dst.tolist() == expected
    assert part.src.tolist() == sorted(part.src.tolist())


@given(side=sides, stride=strides, seed=st.integers(0, 99))
def test_drawn_destinations_are_one_per_cell(side: Any, stride: Any, seed: int) -> None:
    (_, w), (sy, sx) = side, stride
    cells = [(d // w // sy, d % w // sx) for d in partition_of(side, stride, seed).dst.tolist()]
    assert len(set(cells)) == len(cells) == (side[0] // sy) * (side[1] // sx)
    assert max(c[0] for c in cells) < side[0] // sy
    assert max(c[1] for c in cells) < side[1] // sx


def test_drawn_destinations_use_every_place_of_a_cell_and_follow_the_seed() -> None:
    first, again, other = (partition_of((40, 40), (2, 2), seed).dst for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    places = {(d // 40 % 2, d % 40 % 2) for d in first.tolist()}
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(("side", "stride"), [((1, 8), (2, 2)), ((8, 1), (2, 2)), ((3, 3), (4, 4)), ((1, 1), (2, 1))])
def test_a_grid_without_a_cell_is_declined(side: Any, stride: Any) -> None:
    with pytest.raises(Decline, match="has no whole cell"):
        partition_of(side, stride)


# Matching


@given(side=sides, stride=strides, seed=st.integers(0, 50))
def test_best_pairs_equal_a_naive_search(side: Any, stride: Any, seed: int) -> None:
    x, part = tokens(side, seed=seed), partition_of(side, stride, seed)
    score, best = best_pairs(x, part, "dense")
    unit = x.double() / x.double().norm(dim=-1, keepdim=True)
    similarity = unit[:, part.src] @ unit[:, part.dst].transpose(1, 2)
    torch.testing.assert_close(score.double(), similarity.max(-1).values, atol=1e-5, rtol=0)
    chosen = similarity.gather(2, best[..., None])[..., 0]
    torch.testing.assert_close(chosen, similarity.max(-1).values, atol=1e-5, rtol=0)


@given(side=st.tuples(st.integers(4, 40), st.integers(4, 40)), stride=strides, seed=st.integers(0, 20))
def test_local_matching_is_dense_matching_inside_a_tile(side: Any, stride: Any, seed: int) -> None:
    part, x = partition_of(side, stride), tokens(side, batch=1, seed=seed)
    score, best = best_pairs(x, part, "local")
    tile = naive_tiles(side, stride)
    unit = torch.nn.functional.normalize(x[0].double(), dim=-1)
    similarity = unit[part.src] @ unit[part.dst].T
    apart = torch.tensor(tile)[part.src][:, None] != torch.tensor(tile)[part.dst][None]
    similarity[apart] = -2
    torch.testing.assert_close(score[0].double(), similarity.max(-1).values, atol=1e-5, rtol=0)
    assert [tile[s] for s in part.src] == [tile[part.dst[j]] for j in best[0]]


def naive_tiles(side: tuple[int, int], stride: tuple[int, int]) -> list[int]:
    """Tile of each token: cells are spread evenly over ceil(cells / 8) tiles along each axis."""

    def along(length: int, step: int) -> list[int]:
        cells = length // step
        return [min(i // step, cells - 1) * ceil(cells / TILE_CELLS) // cells for i in range(length)]

    return [r * 1000 + c for r in along(side[0], stride[0]) for c in along(side[1], stride[1])]


def test_local_matching_equals_dense_matching_on_one_tile() -> None:
    part, x = partition_of((16, 16), (2, 2)), tokens((16, 16))
    for dense, local in zip(best_pairs(x, part, "dense"), best_pairs(x, part, "local"), strict=True):
        assert dense.shape == local.shape
        torch.testing.assert_close(dense, local)


def test_dense_matching_in_chunks_equals_matching_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    part, x = partition_of((12, 12), (2, 2)), tokens((12, 12))
    whole = best_pairs(x, part, "dense")
    monkeypatch.setattr("skipstone.core.tokens.matching._CHUNK_ELEMENTS", 300)
    chunked = best_pairs(x, part, "dense")
    torch.testing.assert_close(chunked[0], whole[0])
    assert torch.equal(chunked[1], whole[1])
