"""Samples, shapes and number formats: an image never depends on its batch-mates; odd inputs run, dense where they must."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.merge import PairsFound
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = [900.0, 700.0, 500.0, 300.0, 100.0]


def sample(case: tiny.Case, merge: TokenMerge, x: Tensor, cond: Tensor) -> tuple[Tensor, list[PairsFound]]:
    """Result of a run, and what was searched."""
    found: list[PairsFound] = []
    with accelerate(case.model, merge, observer=found.append):
        return case.sample(STEPS, x, cond), found


def by_row(found: list[PairsFound], row: int) -> list[Tensor]:
    """One sample's pairs in every search."""
    return [f.pairs.partner[row] for f in found]


@pytest.mark.parametrize(("name", "bucket"), [("ldm", "auto"), ("pixart", "auto"), ("diffusers", 1), ("paper_dit", 1)])
def test_an_image_does_not_depend_on_its_batch_mates(name: str, bucket: Any) -> None:
    case, merge = tiny.BUILDERS[name](), TokenMerge(threshold=0.6, bucket=bucket, checkpoints="config_3")
    x, cond = case.latent(3), case.cond(3)
    together, found = sample(case, merge, x, cond)
    dense = case.sample(STEPS, x, cond)
    for b in range(3):
        alone, own = sample(case, merge, x[b : b + 1], cond[b : b + 1])
        assert len(own) == len(found)
        assert all(torch.equal(p, q) for p, q in zip(by_row(own, 0), by_row(found, b), strict=True))
        torch.testing.assert_close(alone[0], together[b], atol=1e-4, rtol=1e-4)
        if torch.equal(case.sample(STEPS, x[b : b + 1], cond[b : b + 1])[0], dense[b]):
            assert torch.equal(alone[0], together[b])


def test_counts_differ_between_samples_of_a_batch(either: tiny.Case) -> None:
    _, found = sample(either, TokenMerge(threshold=0.7, bucket=1), either.latent(4), either.cond(4))
    assert any(len(set(f.pairs.merged)) > 1 for f in found)


def test_permuting_samples_permutes_the_images(either: tiny.Case) -> None:
    case, merge, order = either, TokenMerge(threshold=0.6, bucket=1), [2, 0, 3, 1]
    x, cond = case.latent(4), case.cond(4)
    straight, found = sample(case, merge, x, cond)
    permuted, moved = sample(case, merge, x[order], cond[order])
    for new, old in enumerate(order):
        assert all(torch.equal(p, q) for p, q in zip(by_row(moved, new), by_row(found, old), strict=True))
    torch.testing.assert_close(permuted, straight[order], atol=1e-4, rtol=1e-4)


def test_max_merges_the_batchs_largest_count_in_every_sample(case: tiny.Case) -> None:
    x, cond = case.latent(4), case.cond(4)
    fields: dict[str, Any] = {"threshold": 0.7, "bucket": 1}
    with accelerate(case.model, TokenMerge(**fields), observer=(own := []).append):
        case(x, 900.0, cond)
    with accelerate(case.model, TokenMerge(**fields, batch="max"), observer=(largest := []).append):
        case(x, 900.0, cond)
    assert len(set(own[0].pairs.merged)) > 1
    assert largest[0].pairs.merged == (max(own[0].pairs.merged),) * 4
    for f in largest:
        assert len(set(f.pairs.merged)) == 1
        assert all(
            f.pairs.merged[b] == (f.pairs.partner[b] != torch.arange(f.pairs.partner.shape[1])).sum() for b in range(4)
        )


# Shapes


SIZES = {
    "rectangular": (16, 40),
    "odd": (65, 48),
    "odd both": (17, 23),
    "one row": (1, 32),
    "single": (1, 1),
    "tiny": (2, 2),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_any_latent_size_runs(size: tuple[int, int]) -> None:
    case = tiny.diffusers_unet()
    x, cond = case.latent(2, size=size), case.cond()
    dense = case(x, 900.0, cond)
    with accelerate(case.model, TokenMerge(threshold=-1, bucket=1, max_downsample=2)) as handle:
        out = case(x, 900.0, cond)
        report = handle.report()
    assert out.shape == dense.shape
    assert out.isfinite().all()
    if min(size) == 1:
        assert report.served == 0
        assert torch.equal(out, dense)
        assert any("has no whole cell" in reason for reason in report.declined)
        return
    fine = next(layer for layer in report.layers.values() if layer.tokens == 2 * size[0] * size[1])
    assert fine.kept == 2 * (size[0] * size[1] - (size[0] * size[1] - (size[0] // 2) * (size[1] // 2)))
    assert not torch.equal(out, dense)


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 2), (4, 4)])
@pytest.mark.parametrize("matching", ["dense", "local"])
def test_strides_and_matchings_on_an_odd_grid(stride: tuple[int, int], matching: Any) -> None:
    case = tiny.diffusers_unet()
    x, cond = case.latent(2, size=(17, 38)), case.cond()
    with accelerate(case.model, TokenMerge(threshold=-1, bucket=1, stride=stride, matching=matching)) as handle:
        assert case(x, 900.0, cond).isfinite().all()
        kept = {layer.kept for layer in handle.report().layers.values()}
    assert kept == {2 * (17 // stride[0]) * (38 // stride[1])}


class UNetModel(nn.Module):
    """A video network in the shape of an ldm U-Net: takes [B, C, T, H, W] and folds the frames into the batch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.input_blocks, self.output_blocks = inner.input_blocks, inner.output_blocks

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Frame by frame."""
        frames = [self.inner(f, timesteps, context) for f in x.unbind(2)]
        return torch.stack(frames, 2)


def test_a_video_latent_is_declined_in_one_line_and_runs_dense(caplog: pytest.LogCaptureFixture) -> None:
    video = UNetModel(tiny.ldm_unet().model)
    x, steps, cond = tiny.noise(2, 4, 3, 8, 8), torch.tensor([[900.0] * 2, [700.0] * 2]), tiny.noise(2, *tiny.CONTEXT)
    with torch.no_grad():
        dense = [video(x, t, cond) for t in steps]
        with accelerate(video, TokenMerge(threshold=-1)) as handle, caplog.at_level(logging.WARNING, "skipstone"):
            assert all(torch.equal(video(x, t, cond), d) for t, d in zip(steps, dense, strict=True))
            report = handle.end()
    (reason,) = report.declined
    assert "no picture latent" in reason
    assert "\n" not in reason
    assert report.calls == 2
    assert any("nothing was merged" in record.getMessage() for record in caplog.records)


# Number formats


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("proportional", [False, True])
@pytest.mark.parametrize("name", ["diffusers", "dit", "paper_dit"])
def test_number_formats_with_zero_tokens(name: str, dtype: torch.dtype, proportional: bool) -> None:
    case = tiny.BUILDERS[name]()
    case.model.to(dtype)
    zero = next(m for n, m in case.model.named_modules() if n.endswith("norm1"))
    hook = zero.register_forward_pre_hook(
        lambda m, args: (args[0].clone().index_fill_(1, torch.arange(0, 20), 0), *args[1:])
    )
    x, cond = case.latent().to(dtype), case.cond() if case.by_class else case.cond().to(dtype)
    with (
        torch.no_grad(),
        accelerate(case.model, TokenMerge(threshold=0.3, bucket=1, proportional=proportional)) as handle,
    ):
        out = case.call(case.model, x, torch.full((2,), 900.0).to(dtype), cond)
        assert handle.report().merged_share > 0.1
    hook.remove()
    assert out.dtype == dtype
    assert out.isfinite().all()


def test_half_precision_follows_full_precision() -> None:
    case = tiny.diffusers_unet()
    x, cond, t = case.latent(), case.cond(), torch.full((2,), 900.0)
    with torch.no_grad(), accelerate(case.model, TokenMerge(threshold=-1, bucket=1)):
        exact = case.call(case.model, x, t, cond)
        case.model.bfloat16()
        rough = case.call(case.model, x.bfloat16(), t.bfloat16(), cond.bfloat16())
    assert (rough.float() - exact).abs().max() < 0.2 * exact.abs().max()
