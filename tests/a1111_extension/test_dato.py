"""DaTo in the A1111 script: presets and lists of one's own, what it goes with, block options, the report."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import pytest
import tiny
import torch
from doubles import a1111
from doubles.a1111_jobs import LAYERS, args_of, dense, fresh, refused, runs

from skipstone.a1111_extension.bracket import UNetBracket
from skipstone.a1111_extension.host import Step
from skipstone.a1111_extension.infotext import BLOCKS_RUN, MERGED, PRUNED, REFUSED
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.a1111_extension.table import CUSTOM
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import even_timesteps, graph_of, rule_mask
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

pytest_plugins = ["doubles.a1111_fixtures"]

COCO: dict[str, Any] = {"threshold": 1.0, "dato": "dato_coco"}
PRUNE: dict[str, Any] = {"threshold": 1.0, "dato": CUSTOM, "ratio": 0.5}
LISTS: dict[str, Any] = {**PRUNE, "dato_depths": "12 0 0 0"}
TIMES = tuple(999.0 - 90.5 * k for k in range(12))
"""More calls than the preset has full ones."""


# -- pictures --


@pytest.mark.parametrize("forge", [False, True], ids=["a1111", "forge"])
def test_a_preset_prunes_and_skips(host: a1111.Host, job: a1111.Job, forge: bool) -> None:
    job = fresh(job, forge=forge, timesteps=TIMES)
    x = host.process_images(host.script(), job, *args_of(**COCO))
    assert not torch.equal(x, dense(host, job))
    assert torch.equal(x, host.process_images(host.script(), fresh(job), *args_of(**COCO)))
    assert torch.equal(host.process_images(host.script(), fresh(job), False), dense(host, job))
    report = runs(host)[0].report
    assert report.calls == 12 and report.served == LAYERS and report.blocks_reused > 0
    assert {layer.verb for layer in report.layers.values()} == {"pruned"}
    assert refused(job) == [] and job.extra_generation_params == {
        "Skipstone threshold": "1",
        "Skipstone checkpoints": "config_3",
        "Skipstone dato": "dato_coco",
        "Skipstone ratio": "0.4",
        PRUNED: f"{report.merged_share:.0%}",
        BLOCKS_RUN: f"{report.blocks_run / report.blocks:.0%}",
    }


def test_pruning_alone_leaves_out_the_share_that_is_asked_for(host: a1111.Host, job: a1111.Job) -> None:
    host.process_images(host.script(), job, *args_of(**PRUNE))
    report = runs(host)[0].report
    assert (report.merged_share, report.blocks, report.searched) == (0.5, 0, 5 * LAYERS)
    assert job.extra_generation_params[PRUNED] == "50%" and BLOCKS_RUN not in job.extra_generation_params


def test_lists_of_ones_own_say_what_happens_at_each_call(host: a1111.Host, job: a1111.Job) -> None:
    lists = {"dato_depths": "0, 12, 0, 12", "ratios": "0.5 0 0.25 0 0"}
    host.process_images(host.script(), job, *args_of(**PRUNE, **lists))
    report = runs(host)[0].report
    assert 5 * report.blocks_run == 3 * report.blocks
    assert report.layers and all(set(v.kept_by_call.values()) == {0.5, 0.75, 1.0} for v in report.layers.values())
    assert job.extra_generation_params["Skipstone ratios"] == "0.5 0 0.25 0 0"
    assert job.extra_generation_params["Skipstone dato depths"] == "0, 12, 0, 12"


def test_the_networks_output_decides_what_is_pruned(host: a1111.Host, job: a1111.Job) -> None:
    """Without dynamics the bases are drawn; so a picture that never sees any differs from the second call on."""
    by_dynamics = host.process_images(host.script(), job, *args_of(**PRUNE))
    drawn = Recipe(prune=TokenPrune(ratio=0.5, base="random")).to_json()
    by_chance = host.process_images(host.script(), fresh(job), *args_of(recipe=drawn))
    assert not torch.equal(by_dynamics, by_chance)
    assert runs(host)[1].report.notes == []


def test_how_the_rows_are_batched_changes_nothing(host: a1111.Host, job: a1111.Job) -> None:
    x = host.process_images(host.script(), job, *args_of(**PRUNE))
    host.calls = a1111.split
    y = host.process_images(host.script(), fresh(job), *args_of(**PRUNE))
    forge = host.process_images(host.script(), fresh(job, forge=True), *args_of(**PRUNE))
    assert torch.allclose(x, y, atol=1e-5) and torch.allclose(x, forge, atol=1e-5)


def test_a_picture_of_a_batch_is_the_one_it_is_alone(host: a1111.Host, job: a1111.Job) -> None:
    other = fresh(job, latent=tiny.smooth(1, 4, 16, 16, seed=9), cond=tiny.noise(1, 7, 8, seed=11))
    two = {name: torch.cat([getattr(job, name), getattr(other, name)]) for name in ("latent", "cond", "uncond")}
    both = host.process_images(host.script(), fresh(job, **two), *args_of(**PRUNE))
    for at, alone in enumerate((job, other)):
        x = host.process_images(host.script(), fresh(alone, latent=alone.latent), *args_of(**PRUNE))
        assert torch.allclose(both[at], x[0], atol=1e-5)


@pytest.mark.parametrize("conds", [1, None], ids=["known", "SDXL"])
def test_cond_and_uncond_of_a_picture_share_their_bases(job: a1111.Job, conds: int | None) -> None:
    """Rows that denoise the same latent are known by its values, also where nobody says which rows are conds."""
    outputs = []
    for align in (True, False):
        bracket = UNetBracket(job.unet, Recipe(prune=TokenPrune(ratio=0.5, align_cfg=align)))
        bracket.new_step(Step(), conds)
        for t in (900.0, 600.0, 300.0):
            out = a1111.call_unet(
                job.unet, torch.cat([job.latent + t / 1000] * 2), t, torch.cat([job.cond, job.uncond])
            )
        outputs.append(out)
        assert bracket.end().notes == []
    assert not torch.equal(*outputs)


def test_a_hires_pass_has_dynamics_of_its_own(host: a1111.Host, job: a1111.Job) -> None:
    job = fresh(job, enable_hr=True, timesteps=TIMES)
    host.process_images(host.script(), job, *args_of(**COCO))
    assert [run.title[:5] for run in runs(host)] == ["hires", "first"]
    assert all(run.report.served and run.report.blocks_reused for run in runs(host)) and refused(job) == []
    assert len(job.extra_generation_params[PRUNED].split(" / ")) == 2


def test_an_interrupt_frees_the_model(host: a1111.Host, job: a1111.Job) -> None:
    def interrupt(job: a1111.Job, step: int) -> None:
        if step == 3:
            raise a1111.Interrupted

    off = dense(host, job)
    host.on_step = interrupt
    host.process_images(host.script(), job, *args_of(**COCO))
    host.on_step = lambda job, step: None
    assert runs(host)[0].report.calls == 3 and list(a1111.traces(job.unet)) == []
    assert torch.equal(host.process_images(host.script(), fresh(job), False), off)


def test_a_ratio_of_nothing_without_depths_touches_nothing(host: a1111.Host, job: a1111.Job) -> None:
    seen: list[str] = []
    host.on_step = lambda job, step: seen.extend(a1111.traces(job.unet))
    x = host.process_images(host.script(), job, *args_of(**{**PRUNE, "ratio": 0.0}))
    assert torch.equal(x, dense(host, job)) and seen == [] and runs(host) == []


def test_the_horizon_of_a_full_run_is_that_of_the_library(host: a1111.Host, job: a1111.Job) -> None:
    """With one call per depth nothing is stepped over: the web UI runs what an announced run does."""
    depths = (1, 12, 0, 1)
    host.process_images(host.script(), job, *args_of(**PRUNE, dato_depths="1 12 0 1"))
    recipe = Recipe(prune=TokenPrune(ratio=0.5), skip=BlockSkip(rule="depths", depths=depths, rectify="off"))
    case = tiny.Case("same", job.unet, lambda m, x, t, c: m(x, timesteps=t, context=c))
    with accelerate(job.unet, recipe) as handle:
        handle.begin(even_timesteps(5))
        case.sample(even_timesteps(5), torch.cat([job.latent] * 2), torch.cat([job.cond, job.uncond]))
        library = handle.end()
    assert runs(host)[0].report.blocks_run == library.blocks_run


# -- what goes with what --


def test_depths_go_with_merging_where_nothing_is_pruned(host: a1111.Host, job: a1111.Job) -> None:
    job = fresh(job, timesteps=TIMES)
    host.process_images(host.script(), job, *args_of(threshold=0.0, dato="dato_coco", ratio=0.0))
    assert {MERGED, BLOCKS_RUN} <= set(job.extra_generation_params) and PRUNED not in job.extra_generation_params


def test_pruning_goes_with_a_block_rule(host: a1111.Host, job: a1111.Job) -> None:
    host.process_images(host.script(), job, *args_of(**PRUNE, rule="interval", every=2))
    assert runs(host)[0].report.served == LAYERS and runs(host)[0].report.blocks_reused > 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dato": "dato_coco"}, "threshold=0.7 merges tokens that dato='dato_coco' prunes: set Threshold to 1"),
        ({**COCO, "rule": "deepcache"}, "rule='deepcache' and dato='dato_coco' both decide which blocks run: set one"),
        ({**COCO, "dato": "dato_x"}, "dato='dato_x' is not one of off, dato_coco"),
        ({**COCO, "ratio": 0.8}, "ratio=0.8 is outside [0, 0.75]"),
        ({**PRUNE, "ratios": "0.4, most"}, "ratios '0.4, most' cannot be read"),
        ({**PRUNE, "ratios": "0.4, 0.9"}, "ratio=0.9 is outside [0, 0.75]"),
        ({**PRUNE, "dato_depths": "12; one"}, "depths '12; one' cannot be read"),
        ({**COCO, "recover_from": "noise"}, "recover_from='noise' is not one of base, kept"),
        ({**COCO, "recover_from": "kept", "matching": "local"}, "use it with matching='dense'"),
        ({"rule": "interval", "memory_budget": -1}, "memory_budget=-1.0 is outside"),
        (
            {"recipe": '{"skipstone": 1, "methods": [{"kind": "token_merge"}, {"kind": "token_prune"}]}'},
            "token_merge and token_prune both act on attn1",
        ),
    ],
)
def test_what_cannot_run_is_told_once_and_the_picture_is_dense(
    host: a1111.Host, job: a1111.Job, values: dict[str, Any], says: str
) -> None:
    x = host.process_images(host.script(), job, *args_of(**values))
    assert torch.equal(x, dense(host, job))
    (text,) = refused(job)
    assert says in text and "\n" not in text and text.startswith("Skipstone did nothing: ")
    assert list(job.extra_generation_params) == [REFUSED] and runs(host) == []


@pytest.mark.parametrize("what", ["Hypertile", "own token merging"])
def test_what_pruning_must_give_way_to_does_not_hinder_the_depths(host: a1111.Host, job: a1111.Job, what: str) -> None:
    job = fresh(job, timesteps=TIMES)
    alone = host.process_images(host.script(), job, *args_of(**{**COCO, "ratio": 0.0}))
    host.opts.hypertile_enable_unet = what == "Hypertile"
    job = fresh(job, token_merging=0.0 if what == "Hypertile" else 0.5)
    assert torch.equal(host.process_images(host.script(), job, *args_of(**COCO)), alone)
    (text,) = refused(job)
    assert text.startswith("Skipstone pruned no tokens: ") and what in text
    assert BLOCKS_RUN in job.extra_generation_params and PRUNED not in job.extra_generation_params


def test_a_recipe_may_merge_here_and_prune_there(host: a1111.Host, job: a1111.Job) -> None:
    both = Recipe(merge=TokenMerge(threshold=0.0), prune=TokenPrune(ratio=0.5, targets=("ff",)))
    assert PanelSettings.of_recipe(both).recipe, "the panel's fields cannot say it"
    host.process_images(host.script(), job, *args_of(recipe=both.to_json()))
    assert {MERGED, PRUNED} <= set(job.extra_generation_params)


# -- block options --


@pytest.mark.parametrize("values", [{"forecast": True}, {"offload": True}, {"memory_budget": 0.05}], ids=str)
@pytest.mark.parametrize("who", [{"rule": "interval", "every": 2}, LISTS], ids=["rule", "dato"])
def test_block_options_reach_rules_and_depths(
    host: a1111.Host, job: a1111.Job, who: dict[str, Any], values: dict[str, Any]
) -> None:
    asked = {"threshold": 1.0, **who}
    plain = host.process_images(host.script(), fresh(job), *args_of(**asked))
    x = host.process_images(host.script(), job, *args_of(**asked, **values))
    before, report = runs(host)[1].report, runs(host)[0].report
    (name,) = values
    assert f"Skipstone {name.replace('_', ' ')}" in job.extra_generation_params
    if name == "offload":
        assert torch.equal(x, plain)
    elif name == "forecast":
        assert not torch.equal(x, plain) and report.blocks_run == before.blocks_run
    else:
        assert report.blocks_run > before.blocks_run and report.cache_bytes < before.cache_bytes


@pytest.mark.parametrize("skip", [BlockSkip(split=True, rectify="off"), BlockSkip(rectify="off")])
def test_what_the_panel_does_not_show_goes_by_the_recipe(host: a1111.Host, job: a1111.Job, skip: BlockSkip) -> None:
    panel = PanelSettings.of_recipe(Recipe(skip=skip))
    assert panel.recipe and panel.as_recipe().skip == skip
    host.process_images(host.script(), job, *args_of(recipe=panel.recipe))
    assert runs(host)[0].report.blocks_reused > 0


# -- a mask made elsewhere --


def test_a_mask_made_with_diffusers_is_followed_here(host: a1111.Host, job: a1111.Job, tmp_path: Any) -> None:
    twin = tiny.diffusers_unet().model
    family = recognise(twin)
    graph = graph_of(BlockSkip(every=2), family, twin)
    mask = rule_mask(BlockSkip(every=2), graph, family.name, job.timesteps)
    (tmp_path / "skipstone_masks").mkdir()
    mask.save(tmp_path / "skipstone_masks" / "twin.safetensors")
    x = host.process_images(host.script(), job, *args_of(threshold=1.0, rule="mask", mask="twin.safetensors"))
    assert refused(job) == [] and not mask.blocks[0].startswith("input_blocks")
    ruled = host.process_images(host.script(), fresh(job), *args_of(threshold=1.0, rule="deepcache", every=2))
    assert torch.equal(x, ruled)


# -- report --


def test_the_report_says_pruned(host: a1111.Host, job: a1111.Job) -> None:
    history, pages = (sys.modules[f"_skipstone_webui.a1111_extension.{name}"] for name in ("history", "tab_runs"))
    host.process_images(host.script(), job, *args_of(**COCO))
    shown = host.module._script.HISTORY
    line = history.first_line(shown.runs()[0])
    assert line.startswith("one pass, 128 x 128: pruned ") and "; ran " in line
    assert "<th>tokens pruned</th>" in pages.page(shown) and "merged" not in pages.page(shown)


def test_calls_that_cannot_be_served_are_counted(host: a1111.Host, job: a1111.Job) -> None:
    script, args = host.script(), args_of(**PRUNE)
    script.process_before_every_sampling(job, *args, x=job.latent)
    for x in (job.latent[0], job.latent, job.latent[0]):
        with suppress(Exception):  # the U-Net's own, for a latent that is no picture
            a1111.call_unet(job.unet, x, 500.0, job.cond)
    script.postprocess(job, None, *args)
    report = runs(host)[0].report
    assert report.calls == 3 and report.served == LAYERS
    assert report.declined["its input is no picture latent [batch, channels, height, width]"] == ["calls"]


def test_a_pass_of_which_nothing_could_be_served_is_told(host: a1111.Host, job: a1111.Job) -> None:
    script, args = host.script(), args_of(**PRUNE)
    script.process_before_every_sampling(job, *args, x=job.latent)
    with pytest.raises(Exception):  # noqa: B017 - as above
        a1111.call_unet(job.unet, job.latent[0], 500.0, job.cond)
    script.postprocess(job, None, *args)
    (text,) = refused(job)
    assert text.startswith("Skipstone did nothing: ") and "no picture latent" in text


def test_a_schedule_with_as_many_full_calls_as_there_are_steps_is_refused_in_one_line(
    host: a1111.Host, job: a1111.Job
) -> None:
    host.process_images(host.script(), job, *args_of(**COCO))
    (text,) = refused(job)
    assert text.startswith(
        "Skipstone skipped no blocks: the schedule runs every block at each of 5 calls: use more steps"
    )
