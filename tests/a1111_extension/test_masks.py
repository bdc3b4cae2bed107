"""Block masks in the A1111 script: rules and mask files alone and with token merging, passes, and what does not fit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import LAYERS, args_of, dense, fresh, refused, runs

from skipstone.a1111_extension.infotext import BLOCKS_RUN, MERGED, REFUSED
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import BlockPlan
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

pytest_plugins = ["doubles.a1111_fixtures"]

NO_MERGE: dict[str, Any] = {"threshold": 1.0}
RULE: dict[str, Any] = {**NO_MERGE, "rule": "deepcache", "every": 2}


def blocks_of(job: a1111.Job) -> int:
    return len(recognise(job.unet).graph(job.unet).blocks)


@pytest.fixture
def file(host: a1111.Host, job: a1111.Job, tmp_path: Path) -> Path:
    """The mask of the rule above for the job's timesteps, in the web UI's folder."""
    family = recognise(job.unet)
    graph = family.graph(job.unet)
    run = BlockPlan(BlockSkip(every=2), graph, family.name, Horizon(tuple(job.timesteps))).planned_rows()
    names = tuple(graph.blocks[i].name for i in graph.masked)
    path = tmp_path / "skipstone_masks" / "half.safetensors"
    path.parent.mkdir()
    Mask(run, family.name, names, job.timesteps).save(path)
    return path


# -- rules --


@pytest.mark.parametrize("forge", [False, True], ids=["a1111", "forge"])
def test_a_rule_without_merging_skips_blocks(host: a1111.Host, job: a1111.Job, forge: bool) -> None:
    job = fresh(job, forge=forge)
    x = host.process_images(host.script(), job, *args_of(**RULE))
    assert not torch.equal(x, dense(host, job))
    assert torch.equal(x, host.process_images(host.script(), fresh(job), *args_of(**RULE)))
    report = runs(host)[0].report
    assert report.calls == 5 and report.served == 0 and report.planned
    assert report.blocks == 5 * blocks_of(job) and 3 * blocks_of(job) < report.blocks_run < report.blocks
    assert job.extra_generation_params == {
        "Skipstone threshold": "1",
        "Skipstone checkpoints": "config_3",
        "Skipstone rule": "deepcache",
        "Skipstone every": "2",
        BLOCKS_RUN: f"{report.blocks_run / report.blocks:.0%}",
    }


@pytest.mark.parametrize(
    ("values", "full"),
    [
        ({"rule": "interval", "every": 5}, 1),
        ({"rule": "interval", "every": 5, "last_full": True}, 2),
        ({"rule": "depths", "depths": "12, 0, 0, 0"}, 2),
        ({"rule": "depths", "depths": "0 0 0 0", "last_full": True}, 2),
        ({"recipe": Recipe(skip=BlockSkip(rule="fora", every=3)).to_json()}, 2),
    ],
)
def test_each_rule_runs_what_it_says(host: a1111.Host, job: a1111.Job, values: dict[str, Any], full: int) -> None:
    host.process_images(host.script(), job, *args_of(**{**NO_MERGE, **values}))
    report = runs(host)[0].report
    assert (report.blocks_run, report.blocks) == (full * blocks_of(job), 5 * blocks_of(job))


def test_every_call_in_full_without_merging_touches_nothing(host: a1111.Host, job: a1111.Job) -> None:
    seen: list[str] = []
    host.on_step = lambda job, step: seen.extend(a1111.traces(job.unet))
    x = host.process_images(host.script(), job, *args_of(**{**RULE, "every": 1}))
    assert torch.equal(x, dense(host, job))
    assert seen == [] and runs(host) == [] and BLOCKS_RUN not in job.extra_generation_params


def test_each_pass_begins_with_a_full_call(host: a1111.Host, job: a1111.Job) -> None:
    job = fresh(job, enable_hr=True)
    host.process_images(host.script(), job, *args_of(**{**RULE, "rule": "interval", "every": 5}))
    assert [(run.title[:5], run.report.blocks_run) for run in runs(host)] == [
        ("hires", blocks_of(job)),
        ("first", blocks_of(job)),
    ]
    assert job.extra_generation_params[BLOCKS_RUN] == "20% / 20%"


def test_how_the_rows_are_batched_changes_nothing(host: a1111.Host, job: a1111.Job) -> None:
    x = host.process_images(host.script(), job, *args_of(**RULE))
    host.calls = a1111.split
    y = host.process_images(host.script(), fresh(job), *args_of(**RULE))
    assert torch.allclose(x, y, atol=1e-5)


def test_unconds_dropped_in_mid_run_leave_the_conds_their_caches(host: a1111.Host, job: a1111.Job) -> None:
    host.calls = lambda step, conds: [2 * conds] if step < 2 else [conds]
    args = args_of(**{**NO_MERGE, "rule": "interval", "every": 5})
    x = host.process_images(host.script(), job, *args)
    y = host.process_images(host.script(), fresh(job, forge=True), *args)
    assert torch.allclose(x, y, atol=1e-5), "in Forge, where unconds come first, other rows' caches were reused"
    assert {run.report.blocks_run for run in runs(host)} == {blocks_of(job)}


def test_rows_without_a_cache_make_a_full_call(host: a1111.Host, job: a1111.Job) -> None:
    host.calls = lambda step, conds: [conds] if step < 2 else [2 * conds]
    host.process_images(host.script(), job, *args_of(**{**NO_MERGE, "rule": "interval", "every": 5}))
    assert runs(host)[0].report.blocks_run == 2 * blocks_of(job)


def test_an_interrupt_frees_the_model_and_the_caches(host: a1111.Host, job: a1111.Job) -> None:
    def interrupt(job: a1111.Job, step: int) -> None:
        if step == 3:
            raise a1111.Interrupted

    off = dense(host, job)
    host.on_step = interrupt
    host.process_images(host.script(), job, *args_of(**RULE))
    host.on_step = lambda job, step: None
    assert runs(host)[0].report.calls == 3 and list(a1111.traces(job.unet)) == []
    assert torch.equal(host.process_images(host.script(), fresh(job), False), off)


# -- with token merging --


def test_merging_and_a_rule_work_together(host: a1111.Host, job: a1111.Job) -> None:
    both = host.process_images(host.script(), job, *args_of(**{**RULE, "threshold": 0.0}))
    report = runs(host)[0].report
    assert report.served == LAYERS and report.merged_share > 0.5 and report.blocks_reused > 0
    assert {MERGED, BLOCKS_RUN} <= set(job.extra_generation_params)
    alone = host.process_images(host.script(), fresh(job), *args_of(**RULE))
    recipe = Recipe(merge=TokenMerge(threshold=0.0), skip=BlockSkip(every=2)).to_json()
    boxed = host.process_images(host.script(), fresh(job), *args_of(recipe=recipe))
    assert torch.equal(boxed, both) and not torch.equal(both, alone)


@pytest.mark.parametrize("what", ["Hypertile", "own token merging"])
def test_what_merging_must_give_way_to_does_not_hinder_skipping(host: a1111.Host, job: a1111.Job, what: str) -> None:
    alone = host.process_images(host.script(), job, *args_of(**RULE))
    host.opts.hypertile_enable_unet = what == "Hypertile"
    job = fresh(job, token_merging=0.0 if what == "Hypertile" else 0.5)
    x = host.process_images(host.script(), job, *args_of(**{**RULE, "threshold": 0.0}))
    assert torch.equal(x, alone)
    (text,) = refused(job)
    assert text.startswith("Skipstone merged no tokens: ") and what in text
    assert BLOCKS_RUN in job.extra_generation_params and MERGED not in job.extra_generation_params


def test_skipping_alone_is_not_told_of_other_mergers(host: a1111.Host, job: a1111.Job) -> None:
    job = fresh(job, token_merging=0.5)
    host.process_images(host.script(), job, *args_of(**RULE))
    assert refused(job) == [] and runs(host)[0].report.blocks_reused > 0


# -- mask files --


def test_a_mask_file_is_followed(host: a1111.Host, job: a1111.Job, file: Path) -> None:
    by_rule = host.process_images(host.script(), job, *args_of(**RULE))
    by_file = host.process_images(host.script(), fresh(job), *args_of(**NO_MERGE, rule="mask", mask=file.name))
    assert torch.equal(by_file, by_rule)
    recipe = Recipe(skip=BlockSkip(mask=file.name)).to_json()
    job = fresh(job)
    assert torch.equal(host.process_images(host.script(), job, *args_of(recipe=recipe)), by_rule)
    assert str(file.parent) not in job.extra_generation_params["Skipstone recipe"]


def test_the_mask_files_are_listed_and_the_list_refreshed(host: a1111.Host, file: Path) -> None:
    mask = host.script().components[18]
    assert mask.choices == ["", "half.safetensors"]
    (file.parent / "sub").mkdir()
    file.rename(file.parent / "sub" / file.name)
    mask.refresh()
    assert mask.choices == ["", "sub/half.safetensors"]


def test_a_missing_folder_is_an_empty_list_and_is_not_made(host: a1111.Host, tmp_path: Path) -> None:
    assert host.script().components[18].choices == [""]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"rule": "sometimes"}, "rule='sometimes' is not one of off, deepcache, interval, fora, depths, mask"),
        ({"rule": "interval", "every": 0}, "every=0 must be a whole number from 1 on"),
        ({"rule": "deepcache", "branch": -1}, "branch=-1 must be a whole number from 0 on"),
        ({"rule": "depths", "depths": "12, one"}, "depths '12, one' cannot be read"),
        ({"rule": "depths"}, "depths '' cannot be read"),
        ({"rule": "mask"}, "rule 'mask' needs a mask"),
        ({"rule": "mask", "mask": "none"}, "mask='none' is not in the folder models/skipstone_masks: it has half.safe"),
        ({"rule": "mask", "mask": "../half.safetensors"}, "mask='../half.safetensors' is not in the folder"),
        ({"recipe": Recipe(skip=BlockSkip(mask="/half.safetensors")).to_json()}, "mask='/half.safetensors' is not in"),
    ],
)
def test_bad_values_are_told_once_and_the_picture_is_dense(
    host: a1111.Host, job: a1111.Job, file: Path, values: dict[str, Any], says: str
) -> None:
    (file.parent.parent / file.name).write_bytes(file.read_bytes())
    x = host.process_images(host.script(), job, *args_of(**values))
    assert torch.equal(x, dense(host, job))
    (text,) = refused(job)
    assert says in text and "\n" not in text and text.startswith("Skipstone did nothing: ")
    assert list(job.extra_generation_params) == [REFUSED] and runs(host) == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("family", "the mask is for a DiT, this model is a ldm U-Net"),
        ("blocks", "blocks, this model"),
        ("truncated", "cannot read mask"),
    ],
)
def test_a_mask_that_does_not_fit_is_told_and_the_picture_is_dense(
    host: a1111.Host, job: a1111.Job, file: Path, broken: str, says: str
) -> None:
    mask = Mask.load(file)
    if broken == "family":
        replace(mask, family="DiT").save(file)
    elif broken == "blocks":
        replace(mask, run=mask.run[:, 1:], blocks=mask.blocks[1:]).save(file)
    else:
        file.write_bytes(file.read_bytes()[:50])
    x = host.process_images(host.script(), job, *args_of(**NO_MERGE, rule="mask", mask=file.name))
    assert torch.equal(x, dense(host, job))
    (text,) = refused(job)
    assert says in text and "\n" not in text and runs(host) == []
    merged = host.process_images(host.script(), fresh(job), *args_of(threshold=0.0))
    job = fresh(job)
    both = host.process_images(host.script(), job, *args_of(threshold=0.0, rule="mask", mask=file.name))
    assert torch.equal(both, merged) and MERGED in job.extra_generation_params
    (text,) = refused(job)
    assert text.startswith("Skipstone skipped no blocks: ") and says in text


# -- report, tab and axis --


def test_the_report_tells_blocks_and_multiply_adds(host: a1111.Host, job: a1111.Job) -> None:
    history, pages = (sys.modules[f"_skipstone_webui.a1111_extension.{name}"] for name in ("history", "tab_runs"))
    host.process_images(host.script(), job, *args_of(**RULE))
    report = runs(host)[0].report
    saved = f"{1 - report.block_macs_run / report.block_macs_all:.0%}"
    line = f"ran {report.blocks_run} of {report.blocks} blocks in {report.calls} calls, saved {saved} of their multiply-adds"
    assert history.first_line(runs(host)[0]) == f"one pass, 128 x 128: {line}"
    page = pages.page(host.module._script.HISTORY)
    assert (
        f"<td>{report.blocks_run}</td><td>{report.blocks_reused}</td><td>{report.blocks_dead}</td><td>{saved}</td>"
        in page
    )
    assert page.count("<table") == 1, "no layer was merged, so that there is no table of layers"
    host.process_images(host.script(), fresh(job), *args_of(**{**RULE, "threshold": 0.0}))
    first = history.first_line(runs(host)[0])
    assert first.startswith("one pass, 128 x 128: merged ") and "; ran " in first
    assert pages.page(host.module._script.HISTORY).count("<table") == 2


@pytest.mark.parametrize(
    ("skip", "shown"),
    [
        (BlockSkip(mode="quad"), True),
        (BlockSkip(rule="fora", every=4), True),
        (BlockSkip(split=True, caching="branch"), True),
        (BlockSkip(rectify="off"), False),
        (BlockSkip(rule="interval", branch=2), False),
    ],
    ids=str,
)
def test_block_masks_that_the_panel_cannot_show_are_sent_by_its_recipe_box(skip: BlockSkip, shown: bool) -> None:
    panel = PanelSettings.of_recipe(Recipe(skip=skip))
    assert bool(panel.recipe) != shown and panel.as_recipe().skip == skip


def test_an_axis_over_the_interval(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    axis = host.xyz.axis_options[2]
    pictures = []
    for args in (
        (False,),
        args_of(**NO_MERGE, rule="interval", every=3),
        args_of(**NO_MERGE, rule="depths", depths="0"),
    ):
        cell = fresh(job)
        axis.apply(cell, 2, [2])
        pictures.append(host.process_images(host.script(), cell, *args))
        assert cell.extra_generation_params["Skipstone every"] == "2"
    assert torch.equal(pictures[0], host.process_images(host.script(), fresh(job), *args_of(**RULE)))
    assert torch.equal(pictures[0], pictures[2]) and not torch.equal(pictures[0], pictures[1])
