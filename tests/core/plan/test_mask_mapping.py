"""Masks on other step counts and in other code bases; transformers taken apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from skipstone.core.errors import MaskError, RecipeError
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import BlockPlan, even_timesteps, graph_of, rule_mask
from skipstone.core.plan.liveness import derive, liveness
from skipstone.core.plan.mapping import depth_rows, mapped_rows
from skipstone.core.plan.mask_fit import fitted
from skipstone.core.plan.rules import interval as interval_rule
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.pipelines.accelerate import accelerate


def graph_and_family(case: tiny.Case, **settings: object) -> tuple[object, str]:
    family = recognise(case.model)
    return graph_of(BlockSkip(**settings), family, case.model), family.name  # type: ignore[arg-type]


def columns(pattern: list[list[int]]) -> np.ndarray:
    return np.array(pattern, dtype=bool)


@pytest.mark.parametrize("calls", [4, 7, 10, 13, 20, 27, 40])
def test_a_mapped_interval_keeps_its_share_and_never_starves(calls: int) -> None:
    run = np.zeros((20, 3), dtype=bool)
    run[::2] = True
    mapped = mapped_rows(run, even_timesteps(20), even_timesteps(calls))
    assert mapped[0].all()
    assert (mapped == mapped[:, :1]).all(), "columns that agree go on agreeing"
    assert abs(int(mapped[:, 0].sum()) - calls / 2) <= 1.5
    gaps = np.diff([*np.flatnonzero(mapped[:, 0]), calls])
    assert gaps.max() <= max(3, 2 * calls // 20 + 1)


def test_a_refresh_between_two_calls_is_not_lost() -> None:
    run = columns([[1, 1], [0, 1], [0, 1], [0, 1], [0, 1], [1, 1], [0, 1], [0, 1], [0, 1]])
    mapped = mapped_rows(run, even_timesteps(9), even_timesteps(5))
    assert mapped[:, 1].all(), "what always runs goes on doing so"
    assert mapped[1:, 0].sum() == 1, "half of the calls, half a run due: it comes once"
    assert not mapped_rows(columns([[1], *[[0]] * 8]), even_timesteps(9), even_timesteps(5))[1:].any()


def test_a_depth_list_keeps_its_full_calls_where_their_timesteps_are() -> None:
    rows = np.zeros((51, 2), dtype=bool)
    rows[:, 1] = True
    rows[[0, 14, 24, 36, 46]] = True
    mapped = depth_rows(rows, np.linspace(0, 1, 20).tolist())
    assert np.flatnonzero(mapped[:, 0]).tolist() == [0, 5, 9, 14, 17]
    assert mapped[:, 1].all()
    second_half = depth_rows(rows, np.linspace(0.5, 1, 10).tolist())
    assert np.flatnonzero(second_half[:, 0]).tolist() == [4, 8], "what lies outside the run is not squeezed into it"


def test_a_depth_list_is_taken_as_it_stands_by_a_run_of_its_length() -> None:
    rows = np.random.default_rng(0).random((51, 3)) < 0.5
    plms = [0.0, 0.02, 0.02, *np.linspace(0.04, 1, 48)]
    assert np.array_equal(depth_rows(rows, plms), rows)


def test_a_part_of_the_run_is_mapped_at_its_own_density() -> None:
    """img2img: 10 calls over the last half of 20 see these rows as they are."""
    run = np.random.default_rng(0).random((20, 5)) < 0.5
    own = even_timesteps(20)
    mapped = mapped_rows(run, own, own[10:])
    assert np.array_equal(mapped[1:], run[11:])


def test_an_unplanned_run_makes_up_for_rows_that_it_steps_over(unet: tiny.Case) -> None:
    graph, family = graph_and_family(unet)
    run = np.zeros((20, len(graph.masked)), dtype=bool)  # type: ignore[attr-defined]
    run[0] = run[5] = True
    names = tuple(graph.blocks[i].name for i in graph.masked)  # type: ignore[attr-defined]
    plan = BlockPlan(BlockSkip(mask=Mask(run, family, names, even_timesteps(20))), graph, family, Horizon())  # type: ignore[arg-type]
    steps = even_timesteps(20)
    ran = [bool((plan.row(k, steps[at])[0] == 2).any()) for k, at in enumerate((0, 3, 7, 7, 9))]
    again = bool((plan.row(4, steps[9])[0] == 2).any())
    assert ran == [True, False, True, False, False] and not again


def test_an_unplanned_run_of_a_depth_list_takes_nearest_rows_and_the_full_calls_that_it_passes(unet: tiny.Case) -> None:
    graph, family = graph_and_family(unet)
    codes = tuple(12 if k in (14, 24, 36, 46) else k % 2 for k in range(1, 51))
    plan = BlockPlan(BlockSkip(rule="depths", depths=codes), graph, family, Horizon())  # type: ignore[arg-type]
    rows = [plan.row(k, t)[0] == 2 for k, t in enumerate(even_timesteps(20))]
    full = [k for k, row in enumerate(rows) if row.all()]
    assert full == [0, 6, 9, 14, 18], "each at the first call at or after its place"
    repeated = sum(not row.any() for row in rows)
    assert 5 <= repeated <= 10, "half of the other rows are zeros"


def test_forwards_of_one_unplanned_call_see_the_same_row(unet: tiny.Case) -> None:
    graph, family = graph_and_family(unet)
    run = np.zeros((20, len(graph.masked)), dtype=bool)  # type: ignore[attr-defined]
    run[0] = run[5] = True
    names = tuple(graph.blocks[i].name for i in graph.masked)  # type: ignore[attr-defined]
    plan = BlockPlan(BlockSkip(mask=Mask(run, family, names, even_timesteps(20))), graph, family, Horizon())  # type: ignore[arg-type]
    steps = even_timesteps(20)
    rows = [plan.row(k, steps[at])[0] for k, at in ((0, 0), (1, 3), (2, 7), (2, 7))]
    assert np.array_equal(rows[2], rows[3]) and (rows[2] == 2).all()


def test_a_mask_made_for_diffusers_fits_the_same_unet_in_ldm() -> None:
    theirs, ours = tiny.ldm_unet(), tiny.diffusers_unet()
    a, b = (graph_and_family(c) for c in (theirs, ours))
    if a[0].signature != b[0].signature:  # type: ignore[attr-defined]
        pytest.fail("the tiny models differ in structure")
    mask = rule_mask(BlockSkip(every=2), b[0], b[1], even_timesteps(6))  # type: ignore[arg-type]
    renamed = fitted(mask, a[1], a[0])  # type: ignore[arg-type]
    assert renamed.blocks == tuple(a[0].blocks[i].name for i in a[0].masked)  # type: ignore[attr-defined]
    assert np.array_equal(renamed.run, mask.run) and renamed.family == a[1]
    with accelerate(theirs.model, BlockSkip(mask=mask)) as handle:
        handle.begin(even_timesteps(6))
        theirs.sample(list(even_timesteps(6)))
        assert handle.end().blocks_reused > 0


def test_another_architecture_or_structure_is_refused() -> None:
    unet, dit = tiny.diffusers_unet(), tiny.dit()
    graph, family = graph_and_family(unet)
    mask = rule_mask(BlockSkip(every=2), graph, family, even_timesteps(6))  # type: ignore[arg-type]
    with pytest.raises(MaskError, match="choose a mask made for it"):
        fitted(mask, recognise(dit.model).name, graph_and_family(dit)[0])  # type: ignore[arg-type]
    unsigned = dataclasses.replace(mask, signature=())
    other = tiny.ldm_unet()
    with pytest.raises(MaskError, match="make a mask for this model"):
        fitted(unsigned, recognise(other.model).name, graph_and_family(other)[0])  # type: ignore[arg-type]


def test_the_signature_is_kept_in_the_file(tmp_path: object) -> None:
    graph, family = graph_and_family(tiny.diffusers_unet())
    mask = rule_mask(BlockSkip(every=2), graph, family, even_timesteps(6))  # type: ignore[arg-type]
    path = tmp_path / "m.safetensors"  # type: ignore[operator]
    mask.save(path)
    assert Mask.load(path).signature == graph.signature != ()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["ldm", "diffusers", "sdxl"])
def test_single_transformer_blocks_can_be_masked(name: str) -> None:
    case = tiny.BUILDERS[name]()
    whole, family = graph_and_family(case)
    split, _ = graph_and_family(case, split=True)
    assert len(split) >= len(whole) and not any(b.kind == "transformer" for b in split.blocks)  # type: ignore[arg-type, attr-defined]
    run = np.random.default_rng(1).random((6, len(split.masked))) < 0.6  # type: ignore[attr-defined]
    run[0] = True
    names = tuple(split.blocks[i].name for i in split.masked)  # type: ignore[attr-defined]
    mask = Mask(run, family, names, even_timesteps(6), signature=split.signature)  # type: ignore[attr-defined]
    steps = list(even_timesteps(6))
    pictures = []
    for how in ("liveness", "off"):
        with accelerate(case.model, BlockSkip(mask=mask, rectify=how)) as handle:
            handle.begin(steps)
            pictures.append(case.sample(steps))
            report = handle.end()
    assert torch.equal(*pictures)
    assert report.blocks_run == int(derive(run, split).sum())  # type: ignore[arg-type]


def test_a_sampler_runs_with_any_single_block_that_it_reads_and_rests_with_all(unet: tiny.Case) -> None:
    graph, _ = graph_and_family(unet, split=True)
    samplers = [i for i, block in enumerate(graph.blocks) if block.derived]
    assert samplers and all(len(graph.reads[i]) > 1 for i in samplers)
    for i in samplers:
        rows = [[j == read for j in graph.masked] for read in graph.reads[i]]
        nothing = [False] * len(graph.masked)
        assert derive(np.array([*rows, nothing]), graph)[:, i].tolist() == [True] * len(rows) + [False]


def test_splitting_is_refused_where_there_is_nothing_to_split() -> None:
    with pytest.raises(MaskError, match="split=False"):
        graph_and_family(tiny.dit(), split=True)


def test_the_deepcache_rule_means_the_same_with_transformers_taken_apart(unet: tiny.Case) -> None:
    steps = list(even_timesteps(7))
    pictures = []
    for split in (False, True):
        with accelerate(unet.model, BlockSkip(every=3, split=split)) as handle:
            handle.begin(steps)
            pictures.append(unet.sample(steps))
    assert torch.equal(*pictures)


def test_rectify_paper_is_refused_on_a_unet_and_exact_on_a_chain(unet: tiny.Case) -> None:
    with (
        pytest.raises(RecipeError, match="use 'liveness'"),
        accelerate(unet.model, BlockSkip(rectify="paper")) as handle,
    ):
        handle.begin(list(even_timesteps(6)))
    case = tiny.dit()
    graph, family = graph_and_family(case, caching="output")
    run = interval_rule.interval(6, graph, 2)  # type: ignore[arg-type]
    run[:, 0] = True
    names = tuple(graph.blocks[i].name for i in graph.masked)  # type: ignore[attr-defined]
    mask = Mask(run, family, names, even_timesteps(6), caching="output")
    results = {}
    for how in ("off", "paper", "liveness"):
        with accelerate(case.model, BlockSkip(mask=mask, rectify=how)) as handle:
            handle.begin(list(even_timesteps(6)))
            results[how] = (case.sample(list(even_timesteps(6))), handle.end().blocks_run)
    assert torch.equal(results["paper"][0], results["off"][0]) and torch.equal(
        results["liveness"][0], results["off"][0]
    )
    assert results["off"][1] > results["paper"][1] >= results["liveness"][1] == int((liveness(run, graph) == 2).sum())  # type: ignore[arg-type]
