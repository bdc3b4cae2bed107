"""The meter: what the report says is what ran, counted independently."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
import tiny
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skipstone.core.engine.meter import Meter
from skipstone.core.engine.report import Report
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = [900.0, 700.0, 500.0, 300.0]


def attention_names(model: nn.Module) -> list[str]:
    """Names of the self-attentions, as reports name their blocks, mapped back."""
    return [n for n, _ in model.named_modules() if n.endswith((".attn1", ".attn"))]


def first_linear(module: nn.Module) -> nn.Linear:
    """The projection that sees every token once."""
    return next(m for m in module.modules() if isinstance(m, nn.Linear))


def counted_tokens(case: tiny.Case, run: Any) -> dict[str, int]:
    """Tokens that went through each self-attention's first projection, by block."""
    counts: dict[str, int] = {}
    hooks = []
    for name in attention_names(case.model):
        block = name.rpartition(".")[0]

        def hook(m: nn.Module, args: Any, block: str = block) -> None:
            counts[block] = counts.get(block, 0) + args[0].shape[:-1].numel()

        hooks.append(first_linear(dict(case.model.named_modules())[name]).register_forward_pre_hook(hook))
    run()
    for h in hooks:
        h.remove()
    return counts


@pytest.mark.parametrize("batch", ["per_sample", "max"])
def test_reported_tokens_are_those_that_ran(case: tiny.Case, batch: Any) -> None:
    dense = counted_tokens(case, lambda: case.sample(STEPS))
    with accelerate(case.model, TokenMerge(threshold=0.6, bucket=1, batch=batch)) as handle:
        ran = counted_tokens(case, lambda: case.sample(STEPS))
        report = handle.end()
    assert report.served > 0
    for name, layer in report.layers.items():
        assert layer.tokens == dense[name]
        assert layer.kept == ran[name]
        assert sum(layer.kept_by_call.values()) * dense[name] / len(STEPS) == pytest.approx(ran[name])
    assert all(ran[name] == dense[name] for name in dense if name not in report.layers)
    served = list(report.layers.values())
    total = sum(layer.tokens for layer in served)
    assert report.merged_share == pytest.approx(1 - sum(layer.kept for layer in served) / total)


def flops(case: tiny.Case, role_ends: tuple[str, ...]) -> int:
    """Multiply-adds that torch counts inside the modules whose name ends so, in two calls: a search, and its reuse."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        case.sample(STEPS[:2])
    counts = counter.get_flop_counts()
    root = type(case.model).__name__
    return (
        sum(sum(ops.values()) for name, ops in counts.items() if name.startswith(root) and name.endswith(role_ends))
        // 2
    )


ROLES: dict[str, tuple[str, ...]] = {
    "attn1": (".attn1", ".attn"),
    "attn2": (".attn2", ".cross_attn"),
    "ff": (".ff", ".mlp"),
}


COUNTED = [(name, tuple(ROLES), "dense") for name in ("ldm", "diffusers", "pixart", "paper_dit")]
COUNTED += [(name, tuple(ROLES), "local") for name in ("ldm", "paper_dit")]
COUNTED += [("pixart", (role,), "local") for role in ROLES]


@pytest.mark.parametrize(
    ("name", "targets", "matching"), COUNTED, ids=lambda v: v if isinstance(v, str) else "+".join(v)
)
def test_reported_multiply_adds_are_what_torch_counts(name: str, targets: Any, matching: Any) -> None:
    """Of the served modules, pair search included; dense of the same modules without merging."""
    case, ends = tiny.BUILDERS[name](), tuple(end for role in targets for end in ROLES[role])
    dense = flops(case, ends)
    merge = TokenMerge(threshold=0.5, bucket=1, targets=targets, max_downsample=8, matching=matching, checkpoints=(0,))
    with accelerate(case.model, merge) as handle:
        done = flops(case, ends)
        report = handle.end()
    assert report.macs_dense == dense
    assert report.macs_done == done
    assert report.macs_done < report.macs_dense


def test_searched_and_reused_are_counted_once_per_block_and_forward(unet: tiny.Case) -> None:
    targets: Any = ("attn1", "attn2", "ff")
    with accelerate(unet.model, TokenMerge(threshold=0.5, bucket=1, targets=targets, checkpoints=(0, 50))) as handle:
        handle.begin(STEPS)
        unet.sample(STEPS)
        report = handle.end()
    blocks = 3
    assert report.searched + report.reused == blocks * len(STEPS)
    assert report.served == 3 * blocks


def test_serving_no_layer_is_a_loud_warning(caplog: pytest.LogCaptureFixture) -> None:
    case = tiny.sdxl_unet()
    with caplog.at_level(logging.WARNING, "skipstone"), accelerate(case.model, TokenMerge(max_downsample=1)) as handle:
        case.sample(STEPS)
        report = handle.end()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "Skipstone: " + "; ".join(report.lines())
    assert "nothing was merged, pruned or skipped in 4 calls" in record.getMessage()
    assert "max_downsample" in record.getMessage()


def test_serving_layers_warns_of_nothing(unet: tiny.Case, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "skipstone"), accelerate(unet.model, TokenMerge(threshold=0.5)):
        unet.sample(STEPS)
    assert caplog.records == []


def test_a_module_that_the_host_bypasses_shows_as_not_served(unet: tiny.Case) -> None:
    names = [n for n in attention_names(unet.model) if n.endswith("attn1")]
    blocks = {n.rpartition(".")[0]: dict(unet.model.named_modules())[n.rpartition(".")[0]] for n in names}
    name, block = next(iter(blocks.items()))
    block.forward = lambda x, *args, **kwargs: x  # type: ignore[method-assign]
    with accelerate(unet.model, TokenMerge(threshold=0.5, bucket=1)) as handle:
        unet.sample(STEPS)
        report = handle.end()
    assert name not in report.layers
    (reason,) = [r for r, what in report.declined.items() if name in what]
    assert "never entered" in reason


def test_declined_blocks_name_their_reason_once(unet: tiny.Case) -> None:
    with accelerate(unet.model, TokenMerge(threshold=0.5, max_downsample=1)) as handle:
        unet.sample(STEPS)
        report = handle.end()
    assert [len(names) for names in report.declined.values()] == [4]
    lines = report.summary().splitlines()
    assert sum(line.startswith("4 layers unaccelerated: ") for line in lines) == 1


def test_report_as_json(unet: tiny.Case) -> None:
    with accelerate(unet.model, TokenMerge(threshold=0.5, bucket=1)) as handle:
        unet.sample(STEPS)
        report = handle.end()
    data = json.loads(report.to_json())
    assert data["calls"] == len(STEPS)
    assert data["served"] == report.served == len(data["layers"])
    assert data["merged_share"] == report.merged_share
    assert data["macs_done"] < data["macs_dense"]
    assert report.cache_bytes > 0


def test_report_is_readable_before_during_and_after_a_run(unet: tiny.Case) -> None:
    handle = accelerate(unet.model, TokenMerge(threshold=0.5, bucket=1))
    assert handle.report().summary() == "no run yet"
    unet(unet.latent(), 900.0, unet.cond())
    assert handle.report().calls == 1
    handle.remove()
    assert "merged" in handle.report().summary()
    assert handle.report().calls == 1


def test_the_headline_tells_the_blocks_that_ran_and_their_share_of_the_multiply_adds() -> None:
    meter = Meter()
    meter.report.calls = 10
    meter.count_blocks(run=30, reused=20, dead=50, macs_run=450, macs_all=1000)
    assert "ran 30 of 100 blocks in 10 calls, saved 55% of their multiply-adds" in meter.report.summary().splitlines()
    meter.report.block_macs_run = meter.report.block_macs_all = 0
    assert "ran 30 of 100 blocks in 10 calls" in meter.report.summary().splitlines()


def test_cache_bytes_are_the_peak() -> None:
    meter = Meter()
    for size in (5, 9, 3):
        meter.keep_cache(size)
    assert meter.finish().cache_bytes == 9


def test_seconds_are_the_runs_own() -> None:
    meter = Meter()
    time.sleep(0.01)
    first = meter.finish().seconds
    assert 0.01 <= first < 60


def test_an_empty_report_divides_by_nothing() -> None:
    assert Report().merged_share == 0
    assert "nothing was merged" in Report(calls=3).summary()


def test_cache_bytes_count_pairs_and_maps(unet: tiny.Case) -> None:
    sizes = []
    for batch in (1, 2):
        with accelerate(unet.model, TokenMerge(threshold=-1, bucket=1)) as handle:
            unet(unet.latent(batch), 900.0, unet.cond(batch))
            sizes.append(handle.end().cache_bytes)
    partner = 3 * 256 * torch.long.itemsize
    assert sizes[1] == 2 * sizes[0]
    assert sizes[0] >= 2 * partner
