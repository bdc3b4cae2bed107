"""The U-Nets of Forge (`FORGE_PATH`) and of SDXL's `sgm` (`SGM_PATH`), from their own sources, with random weights.

Each variable names the folder of a checkout. Forge also wants `gguf`, `psutil` and `diffusers` installed.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tiny
import torch
from doubles.a1111 import traces
from torch import Tensor, nn

from skipstone.a1111_extension.bracket import UNetBracket
from skipstone.core.models import recognise
from skipstone.core.models.rows import crossing
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

STEPS = (999.0, 749.5, 499.5, 249.5, 0.0)
MERGE = TokenMerge(threshold=0.0, bucket=1, checkpoints=(0, 25))
CONTEXT, CLASSES = 8, 6
SDXL = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": [1, 2, 4],
    "num_head_channels": 16,
    "context_dim": CONTEXT,
    "num_classes": "sequential",
    "adm_in_channels": CLASSES,
}


def checkout(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a checkout on sys.path, or skip."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"needs a checkout: set {variable}")
    monkeypatch.syspath_prepend(path)


def import_forge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Forge's `backend` importable, or skip. Its `backend.args` reads the command line at import."""
    checkout("FORGE_PATH", monkeypatch)
    for package in ("gguf", "psutil", "diffusers"):
        pytest.importorskip(package, reason=f"Forge needs {package}: pip install it")
    monkeypatch.setattr(sys, "argv", ["webui.py", "--always-cpu", "--attention-pytorch"])


def forge(monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """Forge's U-Net class."""
    import_forge(monkeypatch)
    from backend.nn.unet import IntegratedUNet2DConditionModel

    return IntegratedUNet2DConditionModel


def forge_sd1(monkeypatch: pytest.MonkeyPatch) -> tiny.Case:
    depth = {"transformer_depth": [1, 1], "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1]}
    shape = {**SDXL, "channel_mult": [1, 2], "num_classes": None, "adm_in_channels": None}
    model = forge(monkeypatch)(use_spatial_transformer=True, **shape, **depth)
    return tiny.Case("forge sd1", tiny.randomise(model), forge_call)


def forge_sdxl(monkeypatch: pytest.MonkeyPatch) -> tiny.Case:
    depth = {
        "transformer_depth": [0, 2, 3],
        "transformer_depth_middle": 3,
        "transformer_depth_output": [0, 0, 2, 2, 3, 3],
    }
    model = forge(monkeypatch)(use_spatial_transformer=True, use_linear_in_transformer=True, **SDXL, **depth)
    return tiny.Case("forge sdxl", tiny.randomise(model), lambda m, x, t, c: forge_call(m, x, t, c, y=vector(x)))


def sgm_sdxl(monkeypatch: pytest.MonkeyPatch) -> tiny.Case:
    checkout("SGM_PATH", monkeypatch)
    from sgm.modules.diffusionmodules.openaimodel import UNetModel

    older = {"use_spatial_transformer": True, "legacy": False}  # the commit that AUTOMATIC1111 pins
    options = older if "legacy" in inspect.signature(UNetModel).parameters else {}
    model = UNetModel(
        attention_resolutions=[4, 2],
        transformer_depth=[1, 2, 3],
        use_linear_in_transformer=True,
        spatial_transformer_attn_type="softmax",
        use_checkpoint=False,
        **SDXL,
        **options,
    )
    return tiny.Case("sgm", tiny.randomise(model), lambda m, x, t, c: m(x, timesteps=t, context=c, y=vector(x)))


def vector(x: Tensor) -> Tensor:
    """SDXL's size conditioning [B, CLASSES]."""
    return torch.linspace(-1, 1, CLASSES).repeat(len(x), 1)


def forge_call(m: nn.Module, x: Tensor, t: Tensor, c: Tensor, **options: Any) -> Tensor:
    """The forward writes into its transformer_options, so each call gets its own, as in Forge."""
    given = {"cond_or_uncond": [0, 1], **options.pop("transformer_options", {})}
    return m(x, timesteps=t, context=c, transformer_options=given, **options)


@pytest.fixture(params=[forge_sd1, forge_sdxl, sgm_sdxl], ids=lambda build: build.__name__)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tiny.Case]:
    """Each U-Net in turn, two rows; nothing may be left on it."""
    found = request.param(monkeypatch)
    yield found
    assert list(traces(found.model)) == []


def test_off_on_off_equals_off(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    with accelerate(case.model, MERGE) as handle:
        on = case.sample(STEPS)
    report = handle.report()
    assert not torch.equal(on, off)
    assert torch.equal(case.sample(STEPS), off)
    assert report.served > 0 and report.merged_share > 0.3 and report.calls == len(STEPS)
    assert report.searched and report.reused > report.searched


def test_every_block_that_has_weights_can_be_skipped(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    graph = recognise(case.model).graph(case.model)
    with accelerate(case.model, BlockSkip(rule="interval", every=len(STEPS))) as handle:
        on = case.sample(STEPS)
    report = handle.report()
    assert not torch.equal(on, off)
    assert torch.equal(case.sample(STEPS), off)
    assert (report.blocks_run, report.blocks) == (len(graph.blocks), len(STEPS) * len(graph.blocks))
    kinds = ("ResBlock", "SpatialTransformer", "Downsample", "Upsample")
    assert {b.name for b in graph.blocks} == {n for n, m in case.model.named_modules() if type(m).__name__ in kinds}


def test_the_web_uis_bracket_merges_and_skips(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    bracket = UNetBracket(case.model, Recipe(merge=MERGE, skip=BlockSkip(every=2)))
    bracket.rows.new_step(1)
    on = case.sample(STEPS)
    report = bracket.end()
    assert not torch.equal(on, off) and torch.equal(case.sample(STEPS), off)
    assert report.served > 0 and 0 < report.blocks_reused < report.blocks_run and report.notes == []


def test_dato_in_the_web_uis_bracket(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    by = {}
    for base in ("dynamics", "random"):
        recipe = Recipe(prune=TokenPrune(base=base), skip=BlockSkip(rule="depths", depths=(12, 12, 1, 0)))
        bracket = UNetBracket(case.model, recipe)
        bracket.rows.new_step(1)
        by[base] = case.sample(STEPS), bracket.end()
    report = by["dynamics"][1]
    assert not torch.equal(by["dynamics"][0], off) and torch.equal(case.sample(STEPS), off)
    assert not torch.equal(by["dynamics"][0], by["random"][0]), "the raw output did not reach the pruning"
    assert report.served > 0 and 0.35 < report.merged_share <= 0.4 and report.notes == []
    assert 3 * report.blocks < 5 * report.blocks_run < 4 * report.blocks


def test_pruning_nothing_is_exact(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    with accelerate(case.model, TokenPrune(ratio=1e-9)) as handle:
        assert torch.equal(case.sample(STEPS), off)
    assert handle.report().served > 0 and handle.report().merged_share == 0


def test_single_transformer_blocks_can_be_skipped(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    transformers = sum(type(m).__name__ == "BasicTransformerBlock" for m in case.model.modules())
    pictures, reports = [], []
    for split in (False, True):
        with accelerate(case.model, BlockSkip(every=2, split=split)) as handle:
            pictures.append(case.sample(STEPS))
        reports.append(handle.report())
    assert torch.equal(*pictures) and not torch.equal(pictures[0], off)
    whole = sum(type(m).__name__ == "SpatialTransformer" for m in case.model.modules())
    assert reports[1].blocks - reports[0].blocks >= len(STEPS) * (transformers - whole)
    assert torch.equal(case.sample(STEPS), off)


def test_a_rule_that_runs_every_call_in_full_is_exact(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    with accelerate(case.model, BlockSkip(rule="depths", depths=(12, 12, 12, 12))) as handle:
        assert torch.equal(case.sample(STEPS), off)
    assert handle.report().blocks_reused == 0


def test_the_web_uis_bracket_serves_it_alike(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    bracket = UNetBracket(case.model, Recipe(merge=MERGE))
    bracket.rows.new_step(1)
    on = case.sample(STEPS)
    report = bracket.end()
    assert not torch.equal(on, off) and torch.equal(case.sample(STEPS), off)
    assert report.served > 0 and report.calls == len(STEPS)


def test_its_attention_is_known_to_treat_rows_alone(case: tiny.Case) -> None:
    attentions = [m for n, m in case.model.named_modules() if n.endswith(("attn1", "attn2"))]
    assert attentions and {crossing(m, m.forward) for m in attentions} == {""}


def test_threshold_one_is_exact(case: tiny.Case) -> None:
    off = case.sample(STEPS)
    with accelerate(case.model, TokenMerge(threshold=1.0)):
        assert torch.equal(case.sample(STEPS), off)


def test_every_layer_is_served_or_declined_with_a_reason(case: tiny.Case) -> None:
    blocks = {name for name, m in case.model.named_modules() if type(m).__name__ == "BasicTransformerBlock"}
    with accelerate(case.model, MERGE) as handle:
        case.sample(STEPS)
    report = handle.report()
    told = {name for names in report.declined.values() for name in names}
    assert blocks == set(report.layers) | told and all(report.declined)


def test_a_patch_that_reshapes_the_tokens_in_forge_runs_as_without_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forge's own token merging and Hypertile change the tokens between norm1 and attn1."""
    case = forge_sdxl(monkeypatch)

    def halve(q: Tensor, k: Tensor, v: Tensor, options: Any) -> tuple[Tensor, Tensor, Tensor]:
        return q[:, ::2], k, v

    def restore(n: Tensor, options: Any) -> Tensor:
        return n.repeat_interleave(2, dim=1)

    patches = {"attn1_patch": [halve], "attn1_output_patch": [restore]}
    case.call = lambda m, x, t, c: forge_call(m, x, t, c, y=vector(x), transformer_options={"patches": patches})
    alone = case.sample(STEPS)
    with accelerate(case.model, MERGE) as handle:
        assert torch.equal(case.sample(STEPS), alone)
    assert handle.report().served == 0
    assert "norm in front" in next(iter(handle.report().declined))
