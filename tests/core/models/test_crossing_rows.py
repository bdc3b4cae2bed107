"""Attention that looks at other rows of its batch sees the whole batch; where rows are known to be alone, groups are cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pipelines import perturbed_attention
from skipstone.core.engine.merge import PairsFound
from skipstone.core.engine.override import Override, beneath
from skipstone.core.engine.report import Report
from skipstone.core.models.rows import crossing, crossing_kernel
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

MERGE = TokenMerge(threshold=0.7, bucket=1)
STEPS = [900.0, 700.0, 500.0]


class Crossing:
    """A self-attention processor whose rows see `mixed(k), mixed(v)` in place of their own keys and values."""

    def __init__(self, rows_seen: list[int]) -> None:
        self.rows_seen = rows_seen or [0]

    def mixed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **kwargs: Any) -> Tensor:
        x, cross = hidden_states, encoder_hidden_states is not None
        context = encoder_hidden_states if cross else x
        q, k, v = (
            f.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for f in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
        )
        if not cross:
            self.rows_seen.append(len(x))
            k, v = self.mixed(k), self.mixed(v)
        return attn.to_out[0](scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class StyleAligned(Crossing):
    """Every row attends to its own tokens and to those of its half's first row."""

    def mixed(self, x: Tensor) -> Tensor:
        halves = [h[:1].expand_as(h) for h in x.chunk(2)]
        return torch.cat([x, torch.cat(halves)], dim=2)


class CrossFrame(Crossing):
    """Every row attends to the first row alone, as in text-to-video zero."""

    def mixed(self, x: Tensor) -> Tensor:
        return x[:1].expand_as(x)


class InHalves(Crossing):
    """Takes the batch apart in two, as PAG's processors."""

    def mixed(self, x: Tensor) -> Tensor:
        uncond, cond = x.chunk(2)
        return torch.cat([uncond, cond])


class Mean(Crossing):
    """Attends to the batch's mean."""

    def mixed(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True).expand_as(x)


def run(case: tiny.Case, recipe: Any, rows: int = 4) -> tuple[Tensor, Report, list[PairsFound]]:
    found: list[PairsFound] = []
    with accelerate(case.model, recipe, observer=found.append) as handle:
        return case.sample(STEPS, case.latent(rows), case.cond(rows)), handle.end(), found


@pytest.mark.parametrize("kind", [StyleAligned, CrossFrame, InHalves, Mean])
def test_a_processor_that_looks_at_other_rows_sees_the_whole_batch(kind: type[Crossing]) -> None:
    case, rows = tiny.diffusers_unet(), [0]
    case.model.set_attn_processor(kind(rows))  # type: ignore[operator]
    together, report, found = run(case, MERGE)
    assert set(rows[1:]) == {4}
    assert all(len(set(f.pairs.merged)) == 1 for f in found) and report.merged_share > 0.1
    assert torch.equal(together, run(case, TokenMerge(threshold=0.7, bucket=1, batch="max"))[0])
    (note,) = report.notes
    assert kind.__name__ in note and len(note) < 200


def test_known_processors_still_merge_each_sample_by_its_own_count() -> None:
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    for processor in (AttnProcessor(), AttnProcessor2_0()):
        case = tiny.diffusers_unet()
        case.model.set_attn_processor(processor)  # type: ignore[operator]
        _, report, found = run(case, MERGE)
        assert any(len(set(f.pairs.merged)) > 1 for f in found) and report.notes == []


def test_perturbed_attention_guidance_runs_with_the_default_merging() -> None:
    pag = perturbed_attention()
    dense = pag()
    for recipe in (TokenMerge(), TokenMerge(threshold=0.3, matching="local", proportional=True), TokenPrune(ratio=0.3)):
        with accelerate(pag.pipe, recipe) as handle:
            picture = pag()
            assert handle.report().merged_share > 0
        assert 0 < (picture - dense).norm() < 0.5 * dense.norm()


def test_a_shared_count_holds_when_pairs_of_single_forwards_are_reused_together() -> None:
    """Cond and uncond searched their pairs in forwards of their own, then come in one batch."""
    case, rows = tiny.diffusers_unet(), [0]
    case.model.set_attn_processor(Mean(rows))  # type: ignore[operator]
    counts = together_after_apart(case, TokenMerge(threshold=0.7, bucket=1, checkpoints=(0,)))
    assert set(counts[:2]) != {counts[0]} and len(set(counts[2])) == 1
    assert rows[-1] == 2


@pytest.mark.parametrize("batch", ["max", "per_sample"])
def test_pairs_of_single_forwards_are_reused_in_groups_only_where_samples_have_their_own_counts(batch: Any) -> None:
    case = tiny.diffusers_unet()
    counts = together_after_apart(case, TokenMerge(threshold=0.7, bucket=1, batch=batch, checkpoints=(0,)))
    assert len(counts) == (3 if batch == "max" else 2)


def together_after_apart(case: tiny.Case, merge: TokenMerge) -> list[tuple[int, ...]]:
    """The first layer's counts in each of its searches: row 0, row 1, and both where they are searched again."""
    from skipstone.core.engine.call import Call
    from skipstone.core.engine.clock import Stream
    from skipstone.core.engine.engine import Engine
    from skipstone.core.recipe.recipe import Recipe

    found: list[PairsFound] = []
    engine = Engine(case.model, Recipe(merge=merge), observer=found.append)
    x, cond = case.latent(4)[::3], case.cond()
    with engine.run([900.0, 700.0]):
        for row in (0, 1):
            with engine.call(Call(900.0, case.size, (Stream(row, 1),))):
                case(x[row : row + 1], 900.0, cond[row : row + 1])
        with engine.call(Call(700.0, case.size, (Stream(0, 1), Stream(1, 1)))):
            case(x, 700.0, cond)
    return [f.pairs.merged for f in found if f.layer == found[0].layer]


# What is known, and what is not


def attention(case: tiny.Case) -> nn.Module:
    return next(m for n, m in case.model.named_modules() if n.endswith(("attn1", ".attn")))


def test_the_hosts_attentions_are_known(case: tiny.Case) -> None:
    module = attention(case)
    assert crossing(module, module.forward) == ""


def test_a_forward_put_on_the_instance_is_not() -> None:
    """MasaCtrl, StyleAlign and object patches replace an attention's forward."""
    for build in (tiny.ldm_unet, tiny.diffusers_unet):
        module = attention(build())
        plain = module.forward
        module.forward = lambda *args, inner=plain, **kwargs: inner(*args, **kwargs)  # type: ignore[method-assign]
        assert "replaced forward" in crossing(module, module.forward)


def test_a_forward_put_on_the_class_counts_by_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTOMATIC1111 puts its optimised attention on ldm's class."""
    module = attention(tiny.ldm_unet())

    def optimised(self: Any, x: Tensor, context: Any = None, mask: Any = None) -> Tensor:
        return x

    for home, known in (("modules.sd_hijack_optimizations", True), ("modules.scripts", False), ("comfyui.x", False)):
        optimised.__module__ = home
        monkeypatch.setattr(type(module), "forward", optimised)
        assert (crossing(module, module.forward) == "") == known, home


def test_overrides_of_another_run_are_looked_through() -> None:
    """Runs side by side must not change each other's counts."""
    module = attention(tiny.diffusers_unet())
    plain, overrides = module.forward, [Override(module, lambda inner, *args: inner(*args)) for _ in range(2)]
    for override in overrides:
        override.install()
    assert beneath(module) == plain and crossing(module, beneath(module)) == ""
    assert "replaced forward" in crossing(module, module.forward)


def test_offloading_wrappers_are_looked_through() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    case = tiny.diffusers_unet()
    module = attention(case)
    add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))
    assert crossing(module, module.forward) == ""
    case.model.enable_layerwise_casting(torch.float32, torch.float32)  # type: ignore[operator]
    assert crossing(module, module.forward) == ""


@pytest.mark.parametrize("name", ["AttnProcessor2_0", "XFormersAttnProcessor"])
def test_a_processor_of_another_package_by_a_known_name_is_not_known(name: str) -> None:
    module = attention(tiny.diffusers_unet())
    module.processor = type(name, (), {"__call__": None})()  # type: ignore[assignment]
    assert name in crossing(module, module.forward)


def test_another_nodes_attention_override_in_comfyui_sees_the_whole_batch() -> None:
    def style_aligned(func: Callable[..., Any], *args: Any, **kwargs: Any) -> None: ...

    assert crossing_kernel({"transformer_options": {"optimized_attention_override": style_aligned}}).endswith(
        "style_aligned"
    )
    assert crossing_kernel({"transformer_options": {}}) == crossing_kernel({}) == crossing_kernel({"mask": None}) == ""


def test_ip_adapter_masks_decline_merged_cross_attention() -> None:
    from skipstone.core.engine.arguments import Arguments, split
    from skipstone.core.errors import Decline

    with pytest.raises(Decline, match="masks"):
        split(None, Arguments((), {"ip_adapter_masks": [torch.ones(1)]}), self_attention=False)  # type: ignore[arg-type]
