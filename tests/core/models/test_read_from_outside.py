"""Blocks that are read from outside run at every call; what only moves or casts weights by hooks is served as ever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from pipelines import self_attention_guidance
from skipstone.core.engine.report import Report
from skipstone.core.models import recognise
from skipstone.core.models.readers import Watch, kept_map
from skipstone.core.plan.block_plan import BlockPlan
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = [900.0, 700.0, 500.0, 300.0, 100.0]
EVERY_2 = BlockSkip(rule="interval", every=2)
MIDDLE = "mid_block.attentions.0"


def middle(case: tiny.Case) -> nn.Module:
    """The middle transformer's self-attention."""
    return case.model.mid_block.attentions[0].transformer_blocks[0].attn1  # type: ignore[union-attr]


def run(case: tiny.Case, recipe: BlockSkip = EVERY_2, planned: bool = True) -> tuple[Tensor, Report]:
    """A run's result and report."""
    with accelerate(case.model, recipe) as handle:
        handle.begin(STEPS if planned else None)
        return case.sample(STEPS), handle.end()


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize(
    "inside", [MIDDLE, f"{MIDDLE}.transformer_blocks.0.attn1.to_q", "down_blocks.0.downsamplers.0"]
)
def test_a_block_with_a_users_hook_inside_runs_at_every_call(inside: str, planned: bool) -> None:
    case, seen = tiny.diffusers_unet(), []
    plain, before = run(case, planned=planned)
    hook = case.model.get_submodule(inside).register_forward_hook(lambda m, args, out: seen.append(out))
    _, report = run(case, planned=planned)
    hook.remove()
    assert len(seen) == len(STEPS)
    assert report.blocks == before.blocks and report.blocks_run > before.blocks_run
    (note,) = (n for n in report.notes if "runs at every call" in n)
    assert "<lambda>" in note and (MIDDLE in note or "down_blocks.0" in note) and len(note) < 300
    assert torch.equal(run(case, planned=planned)[0], plain)


def test_its_inputs_are_real_where_they_would_be_dead() -> None:
    """DeepCache leaves out the whole encoder below its branch; a block there that is read has its inputs from the cache."""
    case, seen = tiny.diffusers_unet(), []
    graph = recognise(case.model).graph(case.model)
    at = [b.name for b in graph.blocks].index(MIDDLE)
    plan = BlockPlan(BlockSkip(rule="deepcache", every=5), graph, "diffusers U-Net", Horizon(tuple(STEPS)))
    assert plan.row(1, STEPS[1])[0][at] == 0
    plan.run_always([at])
    assert all(plan.row(k, t)[0][at] == 2 for k, t in enumerate(STEPS))
    assert all(plan.row(1, STEPS[1])[0][i] for i in graph.reads[at])
    case.model.get_submodule(MIDDLE).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    run(case, BlockSkip(rule="deepcache", every=5))
    assert len(seen) == len(STEPS) and all(x.isfinite().all() and x.abs().max() < 1e3 for x in seen)


def test_the_papers_rectification_keeps_blocks_that_are_read() -> None:
    case = tiny.dit()
    graph = recognise(case.model).graph(case.model, "output")
    plan = BlockPlan(
        BlockSkip(every=5, caching="output", rectify="paper"), graph, "diffusers DiT", Horizon(tuple(STEPS))
    )
    plan.run_always([0])
    assert [plan.row(k, t)[0][0] for k, t in enumerate(STEPS)] == [2] * len(STEPS)


class Storing:
    """A processor in the way of SAG's: it keeps the last attention map."""

    def __init__(self) -> None:
        self.maps: Tensor | None = None
        self.calls = 0

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **kwargs: Any) -> Tensor:
        q, k, v = (attn.head_to_batch_dim(f(hidden_states)) for f in (attn.to_q, attn.to_k, attn.to_v))
        self.maps = attn.get_attention_scores(q, k, None)
        self.calls += 1
        return attn.to_out[0](attn.batch_to_head_dim(self.maps @ v))


def test_a_block_whose_processor_keeps_attention_maps_runs_at_every_call() -> None:
    case = tiny.diffusers_unet()
    middle(case).processor = store = Storing()  # type: ignore[assignment]
    _, report = run(case)
    assert store.calls == len(STEPS)
    assert any("Storing" in note and MIDDLE in note for note in report.notes)


def test_sags_maps_are_those_of_the_present_call() -> None:
    sag = self_attention_guidance()
    maps: list[Tensor] = []
    attention = sag.network.mid_block.attentions[0].transformer_blocks[0].attn1  # type: ignore[union-attr]
    dense = sag()
    with accelerate(sag.pipe, BlockSkip(every=2)) as handle:
        attention.to_q.register_forward_hook(lambda m, args, out: maps.append(out))
        picture = sag()
        report = handle.report()
    assert len(maps) == 2 * 5
    assert 0 < (picture - dense).norm() < 0.5 * dense.norm()
    assert any(MIDDLE in note for note in report.notes) and report.blocks_reused > 0


def test_merging_leaves_an_attention_alone_whose_maps_may_be_read() -> None:
    """A map of fewer tokens is no map of the picture."""
    case = tiny.diffusers_unet()
    middle(case).processor = store = Storing()  # type: ignore[assignment]
    with accelerate(case.model, TokenMerge(threshold=-1, bucket=1, max_downsample=8)) as handle:
        case(case.latent(), 900.0, case.cond())
        report = handle.report()
    assert store.maps is not None and store.maps.shape[-1] == 64
    (reason,) = (r for r, names in report.declined.items() if any(MIDDLE in n for n in names))
    assert "Storing" in reason


class Plain:
    """A processor that keeps settings only."""

    scale = 1.0

    def __init__(self) -> None:
        self.scale, self.name = 0.5, "plain"


def test_what_a_processor_keeps_is_seen_through_the_objects_it_holds() -> None:
    class Controller:
        step = 0

        def __init__(self) -> None:
            self.maps: list[Tensor] = []

    class Controlled(Plain):
        def __init__(self, controller: Controller) -> None:
            super().__init__()
            self.controller = controller

        def __call__(self) -> None: ...

    def change(controller: Controller) -> None:
        controller.maps.append(torch.zeros(1))

    for changes in (False, True):
        module, controller = nn.Module(), Controller()
        module.processor = Controlled(controller)  # type: ignore[assignment]
        watch = Watch(module, (), {})
        if changes:
            change(controller)
        assert bool(watch.stores()) == changes


def test_a_comfyui_patch_that_records_is_seen_and_one_that_only_computes_is_not() -> None:
    record = None

    def recording(q: Tensor) -> Tensor:
        nonlocal record
        record = q
        return q

    for patch, other, found in ((recording, False, True), (recording, True, False), (torch.relu, False, False)):
        at = ("input", 1) if other else ("middle", 0)
        options = {"patches_replace": {"attn1": {at: patch}}, "block": ("middle", 0)}
        watch = Watch(nn.Module(), (torch.zeros(1),), {"transformer_options": options})
        patch(torch.zeros(1) + len(str(found)))
        assert bool(watch.stores()) == found


def test_offloading_and_quantising_hooks_are_no_readers() -> None:
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

    case = tiny.diffusers_unet()
    _, before = run(case)
    for module in case.model.modules():
        if isinstance(module, nn.Linear):
            add_hook_to_module(module, AlignDevicesHook(execution_device="cpu"))
    nn.utils.spectral_norm(case.model.mid_block.resnets[0].conv1)  # type: ignore[union-attr]
    _, report = run(case)
    assert report.blocks_run == before.blocks_run and not any("every call" in n for n in report.notes)
    for module in case.model.modules():
        remove_hook_from_module(module)


def test_diffusers_group_offloading_is_served() -> None:
    case = tiny.diffusers_unet()
    _, before = run(case)
    case.model.enable_layerwise_casting(torch.float32, torch.float32)  # type: ignore[operator]
    _, report = run(case)
    assert report.blocks_run == before.blocks_run and not any("every call" in n for n in report.notes)


def test_the_librarys_processors_keep_nothing(unet: tiny.Case) -> None:
    assert not any(kept_map(getattr(m, "processor", None)) for m in unet.model.modules())
    assert np.isfinite(run(unet)[0].numpy()).all()
