"""Goldens against the released packages `tomesd` (ToMe for SD) and `ca-tome`, with their random choices off.

Where counts are made equal, the merged sets and the outputs are the same. Where they must differ, it is a defect of theirs,
and the test shows it: NaN for zero tokens, pairs of the previous image, and a lost sample after a change of batch.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.tokens.grid import Grid, top_left
from skipstone.core.tokens.maps import Pairs, TokenMap, counts_above, select_pairs
from skipstone.core.tokens.matching import best_pairs
from skipstone.pipelines.accelerate import accelerate

tomesd = pytest.importorskip("tomesd")
ca_merge = pytest.importorskip("ca_tome.merge")
ca_patch = pytest.importorskip("ca_tome.patch")

STEPS = [900.0, 700.0, 500.0, 300.0]
SHAPES = [((8, 8), (2, 2)), ((9, 13), (2, 2)), ((12, 8), (3, 2)), ((10, 7), (1, 3))]
SETTINGS: dict[str, Any] = {"bucket": 1, "batch": "max", "max_downsample": 1}


def tokens(side: tuple[int, int], batch: int = 2) -> Tensor:
    """[B, N, C], each sample with another amount of noise."""
    return tiny.smooth(batch, 6, *side, seed=3).flatten(2).transpose(1, 2).contiguous()


def ours(x: Tensor, side: tuple[int, int], stride: tuple[int, int], counts: Any) -> tuple[Pairs, TokenMap]:
    """Pairs and map with `counts(score)` pairs per sample."""
    part = top_left(Grid(*side, 1), stride, x.device)
    score, best = best_pairs(x, part, "dense")
    pairs = select_pairs(score, best, part, counts(score))
    return pairs, TokenMap(pairs)


def averaging(merge: Any, unmerge: Any, batch: int, count: int) -> Tensor:
    """The peers' merge and unmerge as one matrix [B, N, N]: who is averaged with whom."""
    return unmerge(merge(torch.eye(count).expand(batch, count, count)))


def our_averaging(token_map: TokenMap) -> Tensor:
    """The same of ours."""
    batch, count = token_map.shape
    return token_map.expand(token_map.reduce(torch.eye(count).repeat(batch, 1, 1)))


# Merge functions


@pytest.mark.parametrize(("side", "stride"), SHAPES)
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_tomesd_merges_the_same_sets(side: Any, stride: Any, ratio: float) -> None:
    x = tokens(side)
    count = side[0] * side[1]
    r = int(count * ratio)
    merge, unmerge = tomesd.merge.bipartite_soft_matching_random2d(
        x, side[1], side[0], stride[1], stride[0], r, no_rand=True
    )
    _, token_map = ours(x, side, stride, lambda score: (min(r, score.shape[1]),) * 2)
    torch.testing.assert_close(our_averaging(token_map), averaging(merge, unmerge, 2, count), atol=1e-6, rtol=0)
    y = tiny.noise(2, count, 4)
    torch.testing.assert_close(token_map.expand(token_map.reduce(y)), unmerge(merge(y)), atol=1e-6, rtol=1e-6)


def ca_functions(x: Tensor, side: Any, stride: Any, threshold: float, cache: dict | None = None, step: int = 0) -> Any:
    """merge and unmerge of the released package."""
    cache = {"compute_on": [step], "merge": None, "unmerge": None} if cache is None else cache
    return ca_merge.bipartite_soft_matching_random2d(
        x, side[1], side[0], stride[1], stride[0], threshold, cache, step, no_rand=True
    )


@pytest.mark.parametrize(("side", "stride"), SHAPES)
@pytest.mark.parametrize("threshold", [-1.0, 0.5, 0.8, 0.95, 0.99999])
def test_ca_tome_merges_the_same_sets_when_the_batchs_largest_count_rules(
    side: Any, stride: Any, threshold: float
) -> None:
    x, count = tokens(side), side[0] * side[1]
    merge, unmerge = ca_functions(x, side, stride, threshold)
    _, token_map = ours(x, side, stride, lambda score: counts_above(score, threshold, 1, True, inclusive=True))
    torch.testing.assert_close(our_averaging(token_map), averaging(merge, unmerge, 2, count), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("side", "stride"), SHAPES)
def test_ca_tome_merges_the_same_sets_for_one_sample(side: Any, stride: Any) -> None:
    x, count = tokens(side, batch=1), side[0] * side[1]
    merge, unmerge = ca_functions(x, side, stride, 0.9)
    pairs, token_map = ours(x, side, stride, lambda score: counts_above(score, 0.9, 1, shared=False))
    assert 0 < pairs.merged[0] < count - 1
    torch.testing.assert_close(our_averaging(token_map), averaging(merge, unmerge, 1, count), atol=1e-6, rtol=0)


def test_it_must_differ_where_samples_have_counts_of_their_own() -> None:
    """ca-tome merges pairs below the threshold in all samples but the easiest; per sample, ours do not."""
    x = tokens((8, 8))
    merge, unmerge = ca_functions(x, (8, 8), (2, 2), 0.9)
    pairs, token_map = ours(x, (8, 8), (2, 2), lambda score: counts_above(score, 0.9, 1, shared=False))
    same = [
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(our_averaging(token_map), averaging(merge, unmerge, 2, 64), strict=True)
    ]
    assert len(set(pairs.merged)) == 2
    assert same == [m == max(pairs.merged) for m in pairs.merged]


def test_it_must_differ_for_zero_tokens() -> None:
    """Theirs divide by a zero norm: NaN similarities, which count as best; ours give a zero token similarity 0."""
    x = tokens((8, 8), batch=1)
    x[0, 9] = 0
    part = top_left(Grid(8, 8, 1), (2, 2), x.device)
    theirs = x / x.norm(dim=-1, keepdim=True)
    assert theirs.isnan().any()
    pairs, _ = ours(x, (8, 8), (2, 2), lambda score: counts_above(score, 0.5, 1, shared=False))
    assert pairs.partner[0, 9] == 9
    assert best_pairs(x, part, "dense")[0].isfinite().all()


def test_it_must_differ_after_the_first_image() -> None:
    """ca-tome keeps the previous image's pairs until a checkpoint number comes up; ours end with their run."""
    cache = {"compute_on": [8], "merge": None, "unmerge": None}
    first, second = tokens((8, 8), 1), tokens((8, 8), 1).flip(1).contiguous()
    ca_functions(first, (8, 8), (2, 2), 0.9, cache, step=1)
    stale = averaging(*ca_functions(second, (8, 8), (2, 2), 0.9, cache, step=1), 1, 64)
    fresh = averaging(*ca_functions(second, (8, 8), (2, 2), 0.9), 1, 64)
    assert not torch.allclose(stale, fresh)
    merge, unmerge = ca_functions(tokens((8, 8), 2), (8, 8), (2, 2), 0.9, cache, step=1)
    assert unmerge(merge(tokens((8, 8), 2))).shape[0] == 1


# Whole networks: the real ldm U-Net, as both packages patch it


def wrapped(case: tiny.Case) -> Any:
    """The peers want a model that has a `.model.diffusion_model`."""
    return SimpleNamespace(model=SimpleNamespace(diffusion_model=case.model), named_modules=case.model.named_modules)


def impose(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """Merge a share of all tokens, as tomesd does, in place of those above the threshold."""

    def counts(score: Tensor, *_: Any, **__: Any) -> tuple[int, ...]:
        tokens = score.shape[1] * 4 // 3
        return (min(int(tokens * ratio), score.shape[1]),) * score.shape[0]

    monkeypatch.setattr("skipstone.core.engine.merge.counts_above", counts)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("targets", [("attn1",), ("attn1", "attn2", "ff")], ids="+".join)
def test_tomesd_on_the_real_unet(ratio: float, targets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny.ldm_unet()
    x, cond = case.latent(), case.cond()
    dense = case(x, 900.0, cond)
    flags = {"merge_crossattn": "attn2" in targets, "merge_mlp": "ff" in targets}
    tomesd.apply_patch(wrapped(case), ratio=ratio, max_downsample=1, use_rand=False, **flags)
    theirs = case(x, 900.0, cond)
    tomesd.remove_patch(case.model)
    impose(monkeypatch, ratio)
    with accelerate(case.model, TokenMerge(targets=targets, **SETTINGS)) as handle:
        merged = case(x, 900.0, cond)
        assert handle.report().merged_share == pytest.approx(ratio, abs=0.01)
    torch.testing.assert_close(merged, theirs, atol=1e-5, rtol=1e-4)
    assert (merged - dense).abs().max() > 1e-2


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_ca_tome_on_the_real_unet_over_a_run(threshold: float) -> None:
    case, checkpoints = tiny.ldm_unet(), (0, 2)
    ca_patch.apply_patch(wrapped(case), compute_on=list(checkpoints), r=threshold, use_rand=False)
    blocks = [m for n, m in case.model.named_modules() if n.endswith("transformer_blocks.0")]
    theirs, x = [], case.latent()
    for call, t in enumerate(STEPS):
        for block in blocks:
            block.inference_step = call
        theirs.append(x := tiny.step(x, case(x, t, case.cond())))
    merge = TokenMerge(threshold=threshold, checkpoints=checkpoints, absolute=True, **SETTINGS)
    fresh = tiny.ldm_unet()
    mine, x = [], fresh.latent()
    with accelerate(fresh.model, merge) as handle:
        for t in STEPS:
            mine.append(x := tiny.step(x, fresh(x, t, fresh.cond())))
        report = handle.end()
    assert 0.05 < report.merged_share < 0.75
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_tomesd_on_the_real_diffusers_unet(monkeypatch: pytest.MonkeyPatch) -> None:
    case = tiny.diffusers_unet()
    x, cond = case.latent(), case.cond()
    tomesd.apply_patch(case.model, ratio=0.5, use_rand=False)
    theirs = case(x, 900.0, cond)
    tomesd.remove_patch(case.model)
    impose(monkeypatch, 0.5)
    with accelerate(case.model, TokenMerge(**SETTINGS)):
        torch.testing.assert_close(case(x, 900.0, cond), theirs, atol=1e-5, rtol=1e-4)
