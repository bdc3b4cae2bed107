"""Masks: liveness changes no bit, rules are what they are named after, files are refused in one line."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor

from skipstone.core.engine.block_part import BlockPart
from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream, Tick
from skipstone.core.engine.override import Overrides
from skipstone.core.errors import MaskError, RecipeError
from skipstone.core.measure.macs import CostProbe, count_macs
from skipstone.core.models import recognise
from skipstone.core.models.graph import Block, BlockGraph, GraphBuilder
from skipstone.core.plan.block_plan import BlockPlan
from skipstone.core.plan.liveness import State, derive, liveness, paper_rule
from skipstone.core.plan.mask_fit import fitted, mapped
from skipstone.core.plan.rules import deepcache as deepcache_rule
from skipstone.core.plan.rules import depths as depths_rule
from skipstone.core.plan.rules import interval as interval_rule
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask

CALLS = 8
TIMESTEPS = tuple(np.linspace(999.0, 0.0, CALLS))
KINDS = [
    ("ldm", "output"),
    ("diffusers", "output"),
    ("sdxl", "output"),
    ("dit", "branch"),
    ("dit", "output"),
    ("pixart", "branch"),
]


def chain(length: int) -> BlockGraph:
    """A plain chain of identity blocks."""
    builder = GraphBuilder()
    for i in range(length):
        builder.add(Block(f"b{i}", "block", torch.nn.Identity(), i))
    return builder.build()


def random_mask(blocks: int, seed: int, calls: int = CALLS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = rng.random((calls, blocks)) < rng.uniform(0.2, 0.9)
    mask[0] = True
    return mask


def part_of(
    run: np.ndarray,
    graph: BlockGraph,
    timesteps: tuple[float, ...] | None,
    kind: type[BlockPart] = BlockPart,
    **options: Any,
) -> BlockPart:
    plan = BlockPlan(BlockSkip(mask=mask_of(run, graph), **options), graph, "x", Horizon(timesteps))
    return kind(plan, graph)


def mask_of(run: np.ndarray, graph: BlockGraph, family: str = "x") -> Mask:
    names = tuple(graph.blocks[i].name for i in graph.masked)
    return Mask(run, family, names, TIMESTEPS[: len(run)], graph.caching)


class Poisoned(BlockPart):
    """Dead values are NaN: whoever reads one spoils the picture."""

    def _around(self, number: int) -> Any:
        around = super()._around(number)

        def poisoned(*args: Any, **kwargs: Any) -> Any:
            out = around(*args, **kwargs)
            if self._row[number] == State.DEAD:
                (out[0] if isinstance(out, tuple) else out).fill_(float("nan"))
            return out

        return poisoned


def sample(case: tiny.Case, part: BlockPart) -> Tensor:
    """A run of CALLS calls with cond and uncond in one batch."""
    x, cond = case.latent(), case.cond()
    overrides = Overrides(part.overrides())
    for k, t in enumerate(TIMESTEPS):
        part.begin(Tick(k, new=True), Call(t, case.size, (Stream("uncond", 1), Stream("cond", 1))))
        overrides.install()
        try:
            prediction = case(x, t, cond)
        finally:
            overrides.remove()
            part.end()
        x = tiny.step(x, prediction)
    return x


@pytest.mark.parametrize(("name", "caching"), KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_a_planned_run_with_dead_blocks_gives_the_bits_of_the_unrectified_mask(
    name: str, caching: str, seed: int
) -> None:
    case = tiny.BUILDERS[name]()
    graph = recognise(case.model).graph(case.model, caching)
    mask = random_mask(len(graph.masked), seed)
    planned, plain = part_of(mask, graph, TIMESTEPS, Poisoned), part_of(mask, graph, None)
    assert torch.equal(sample(case, planned), sample(case, plain))
    assert planned.counts[State.RUN] <= plain.counts[State.RUN]
    assert planned.nbytes == 0, "everything is freed as soon as nobody reads it"


@pytest.mark.parametrize(("name", "caching"), KINDS)
def test_a_mask_of_ones_changes_no_bit(name: str, caching: str) -> None:
    case = tiny.BUILDERS[name]()
    graph = recognise(case.model).graph(case.model, caching)
    ones = np.ones((CALLS, len(graph.masked)), dtype=bool)
    part = part_of(ones, graph, TIMESTEPS)
    assert torch.equal(sample(case, part), case.sample(TIMESTEPS))
    assert part.nbytes == 0 and part.counts[State.RUN] == CALLS * len(graph)


def test_counts_are_those_of_the_plan(unet: tiny.Case) -> None:
    graph = recognise(unet.model).graph(unet.model)
    mask = random_mask(len(graph.masked), 7)
    part = part_of(mask, graph, TIMESTEPS)
    sample(unet, part)
    states = liveness(mask, graph)
    assert [int((states == s).sum()) for s in State] == part.counts.tolist()


@pytest.mark.parametrize("seed", range(20))
def test_liveness_is_idempotent_and_never_adds_runs(seed: int) -> None:
    case = tiny.BUILDERS["ldm"]()
    graph = recognise(case.model).graph(case.model)
    mask = random_mask(len(graph.masked), seed)
    once = liveness(mask, graph) == State.RUN
    assert (once <= derive(mask, graph)).all()
    again = once[:, list(graph.masked)]
    if again[0].all():
        assert np.array_equal(liveness(again, graph) == State.RUN, once)


def test_liveness_of_a_chain_removes_at_least_what_the_papers_rule_does() -> None:
    graph, removed = chain(10), []
    for seed in range(50):
        mask = random_mask(10, seed, calls=12)
        live = liveness(mask, graph) == State.RUN
        paper = paper_rule(mask, graph)
        assert (live <= paper).all()
        removed.append((mask.sum() - live.sum(), mask.sum() - paper.sum()))
    ours, theirs = np.sum(removed, axis=0)
    assert ours > theirs > 0


def test_the_papers_rule_is_refused_where_a_decoder_reads_the_encoder(unet: tiny.Case) -> None:
    graph = recognise(unet.model).graph(unet.model)
    with pytest.raises(RecipeError, match="use 'liveness'"):
        paper_rule(random_mask(len(graph), 0), graph)


def test_a_first_call_that_reuses_is_refused() -> None:
    mask = np.zeros((2, 3), dtype=bool)
    with pytest.raises(RecipeError, match="first call"):
        liveness(mask, chain(3))


@pytest.mark.parametrize(("every", "branch"), [(3, 0), (2, 1), (4, 4), (5, 2)])
def test_the_deepcache_rule_gives_the_image_of_the_deepcache_package(every: int, branch: int) -> None:
    from DeepCache import DeepCacheSDHelper

    case = tiny.diffusers_unet(layers_per_block=2)
    graph = recognise(case.model).graph(case.model)
    part = part_of(deepcache_rule.deepcache(CALLS, graph, every, branch), graph, TIMESTEPS)
    ours = sample(case, part)

    class Scheduler:
        timesteps = [float(torch.tensor(t)) for t in TIMESTEPS]  # noqa: RUF012

    class Pipe:
        unet, scheduler = case.model, Scheduler

    helper = DeepCacheSDHelper(Pipe)
    helper.set_params(cache_interval=every, cache_branch_id=branch)
    x, cond = case.latent(), case.cond()
    helper.enable()
    try:
        for t in TIMESTEPS:
            with torch.no_grad():
                x = tiny.step(x, case.model(x, torch.tensor(t), encoder_hidden_states=cond).sample)
    finally:
        helper.disable()
    assert torch.equal(ours, x)


def test_fora_runs_all_branches_at_each_nth_call() -> None:
    case = tiny.BUILDERS["dit"]()
    graph = recognise(case.model).graph(case.model)
    mask = interval_rule.interval(CALLS, graph, 3)
    assert mask.sum(axis=1).tolist() == [len(graph) if k % 3 == 0 else 0 for k in range(CALLS)]


def test_depth_codes_run_the_outermost_levels(unet: tiny.Case) -> None:
    graph = recognise(unet.model).graph(unet.model)
    mask = depths_rule.depths([0, 1, 2, 12], graph)
    rows = [{graph.blocks[i].depth for i, on in zip(graph.masked, row, strict=True) if on} for row in mask]
    everything = {graph.blocks[i].depth for i in graph.masked}
    assert rows == [everything, set(), {0}, {0, 1}, everything]


def test_a_depth_of_zero_repeats_the_last_prediction(unet: tiny.Case) -> None:
    graph = recognise(unet.model).graph(unet.model)
    part = part_of(depths_rule.depths([0], graph), graph, TIMESTEPS[:2])
    overrides, x, outputs = Overrides(part.overrides()), unet.latent(), []
    for k in range(2):
        part.begin(Tick(k, new=True), Call(TIMESTEPS[k], unet.size, (Stream("a", 2),)))
        overrides.install()
        outputs.append(unet(x + k, TIMESTEPS[k], unet.cond()))
        overrides.remove()
        part.end()
    assert torch.equal(*outputs)


def test_a_stream_without_cache_runs_in_full(unet: tiny.Case) -> None:
    graph = recognise(unet.model).graph(unet.model)
    part = part_of(interval_rule.interval(3, graph, 3), graph, None)
    overrides = Overrides(part.overrides())

    def call(k: int, name: str) -> Tensor:
        part.begin(Tick(k, new=True), Call(TIMESTEPS[k], unet.size, (Stream(name, 2),)))
        overrides.install()
        out = unet(unet.latent(seed=k), TIMESTEPS[k], unet.cond())
        overrides.remove()
        part.end()
        return out

    call(0, "a")
    before = part.counts[State.RUN]
    fresh = call(1, "b")
    assert part.counts[State.RUN] - before == len(graph)
    assert torch.equal(fresh, unet(unet.latent(seed=1), TIMESTEPS[1], unet.cond()))


def a_mask() -> Mask:
    return Mask(random_mask(4, 1), "ldm U-Net", tuple("abcd"), TIMESTEPS, provenance={"rule": "by hand"})


def test_a_mask_file_round_trips(tmp_path: Path) -> None:
    mask = a_mask()
    mask.save(tmp_path / "m.safetensors")
    back = Mask.load(tmp_path / "m.safetensors")
    assert np.array_equal(back.run, mask.run)
    assert (back.family, back.blocks, back.timesteps, back.caching, back.provenance) == (
        mask.family, mask.blocks, mask.timesteps, mask.caching, mask.provenance
    )  # fmt: skip


def test_hostile_and_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    a_mask().save(good)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 64)
    save_file({"w": torch.zeros(1)}, tmp_path / "lora.safetensors")
    save_file({"run": torch.zeros(2, 2)}, tmp_path / "odd.safetensors", metadata={"mask": "[1, 2]"})
    save_file({"run": torch.zeros(2, 2)}, tmp_path / "head.safetensors", metadata={"mask": '{"skipstone_mask": 1}'})
    for name in ("cut", "noise", "lora", "odd", "head", "absent"):
        with pytest.raises(MaskError) as error:
            Mask.load(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(error.value), name


def test_a_mask_for_another_family_or_other_blocks_is_refused(unet: tiny.Case) -> None:
    family = recognise(unet.model)
    graph = family.graph(unet.model)
    with pytest.raises(MaskError, match=r"is for a ldm U-Net|others"):
        fitted(a_mask(), family.name, graph)
    fitted(mask_of(interval_rule.interval(CALLS, graph, 2), graph, family.name), family.name, graph)


def test_a_mapped_mask_runs_all_blocks_first_and_takes_the_nearest_rows_where_calls_become_more() -> None:
    mask = a_mask()
    steps = tuple(np.linspace(999.0, 0.0, 2 * CALLS - 1))
    other = mapped(mask, steps)
    assert other.run[0].all()
    assert np.array_equal(other.run[::2][1:], mask.run[1:])
    assert mapped(mask, TIMESTEPS) is mask


@pytest.mark.parametrize("name", ["ldm", "diffusers", "sdxl", "dit", "pixart"])
def test_the_probe_counts_what_torchs_own_counter_counts(name: str) -> None:
    case = tiny.BUILDERS[name]()
    x, cond = case.latent(), case.cond()
    with CostProbe(case.model) as probe:
        case(x, 500.0, cond)
    assert probe.macs == count_macs(lambda: case(x, 500.0, cond))
    assert not any(m._forward_hooks for m in case.model.modules())


def test_multiply_adds_of_a_run_are_those_of_the_plan(unet: tiny.Case) -> None:
    graph = recognise(unet.model).graph(unet.model)
    mask = random_mask(len(graph.masked), 3)
    part = part_of(mask, graph, TIMESTEPS)
    spent = count_macs(lambda: sample(unet, part))
    dense = count_macs(lambda: unet.sample(TIMESTEPS))
    assert dense - spent == int(part.macs.sum() - part.macs[State.RUN]) > 0


@pytest.mark.parametrize(("every", "bound"), [(3, 2.59), (5, 3.80)])
def test_the_deepcache_rule_reaches_its_multiply_add_bound_on_stable_diffusion(every: int, bound: float) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval()
        graph = recognise(unet).graph(unet)
        probes = [CostProbe(b.module) for b in graph.blocks]
        with contextlib.ExitStack() as entered, torch.no_grad(), CostProbe(unet) as whole:
            for probe in probes:
                entered.enter_context(probe)
            unet(torch.randn(1, 4, 64, 64), torch.zeros(1), encoder_hidden_states=torch.randn(1, 77, 768))
    cost = np.array([p.macs for p in probes])
    outside = whole.macs - cost.sum()
    states = liveness(deepcache_rule.deepcache(every, graph, every), graph)
    spent = sum((cost * (row == State.RUN)).sum() + outside for row in states)
    assert whole.macs == pytest.approx(401.6e9, rel=1e-3)
    assert every * whole.macs / spent == pytest.approx(bound, abs=0.01)
