"""The infotext says what happened: windows are followed, and what was refused is not claimed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_flux import TIMES, flux
from doubles.a1111_jobs import args_of, dense, fresh, job_of, refused, runs

from skipstone.a1111_extension.infotext import BLOCKS_RUN, MERGED, PRUNED, REFUSED
from skipstone.a1111_extension.settings import PanelSettings
from skipstone.a1111_extension.table import HIRES
from skipstone.core.models import recognise
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe

pytest_plugins = ["doubles.a1111_fixtures"]

RULE: dict[str, Any] = {"threshold": 1.0, "rule": "interval", "every": 5}
MERGE: dict[str, Any] = {"threshold": 0.0}


# -- windows --


INTERVAL, DEPTHS = {"rule": "interval", "every": 5}, {"rule": "depths", "depths": "0 0 0 0"}


@pytest.mark.parametrize(
    ("rule", "window", "full"),
    [
        (INTERVAL, (0.0, 1.0), 1),
        (DEPTHS, (0.5, 1.0), 2),
        (INTERVAL, (0.9, 1.0), 4),
        (DEPTHS, (0.0, 0.5), 4),
        (INTERVAL, (0.5, 0.6), 4),
        (INTERVAL, (0.2, 0.8), 2),
    ],
    ids=str,
)
def test_a_block_rule_acts_inside_its_window_alone(
    host: a1111.Host, job: a1111.Job, rule: dict[str, Any], window: tuple[float, float], full: int
) -> None:
    """Calls at positions 0, .25, .5, .75 and 1 of the run; the first one always runs in full."""
    start, end = window
    x = host.process_images(host.script(), job, *args_of(threshold=1.0, start=start, end=end, **rule))
    blocks = len(recognise(job.unet).graph(job.unet).blocks)
    report = runs(host)[0].report
    assert (report.blocks_run, report.blocks) == (full * blocks, 5 * blocks)
    told = job.extra_generation_params
    assert told[BLOCKS_RUN] == f"{full / 5:.0%}"
    assert (told.get("Skipstone start", "0"), told.get("Skipstone end", "1")) == (f"{start:g}", f"{end:g}")
    whole = host.process_images(host.script(), fresh(job), *args_of(threshold=1.0, **rule))
    assert torch.equal(x, whole) == (window == (0.0, 1.0)) and not torch.equal(x, dense(host, job))


def test_a_window_with_no_call_in_it_is_told(host: a1111.Host, job: a1111.Job) -> None:
    x = host.process_images(host.script(), job, *args_of(**RULE, start=0.55, end=0.6))
    assert torch.equal(x, dense(host, job))
    assert BLOCKS_RUN not in job.extra_generation_params and job.extra_generation_params[REFUSED].startswith(
        "did nothing"
    )


def test_merging_and_blocks_have_one_window(host: a1111.Host, job: a1111.Job) -> None:
    panel = PanelSettings(enabled=True, **MERGE, rule="interval", every=5, start=0.5)
    recipe = panel.as_recipe()
    assert recipe.merge is not None and recipe.skip is not None
    assert recipe.merge.start == recipe.skip.start == 0.5 and PanelSettings.of_recipe(recipe).recipe == ""
    apart = Recipe(merge=recipe.merge, skip=BlockSkip(rule="interval", every=5))
    assert PanelSettings.of_recipe(apart).recipe, "the panel cannot show two windows"


def test_spacing_that_needs_the_calls_ahead_is_told(host: a1111.Host, job: a1111.Job) -> None:
    quad, job = Recipe(skip=BlockSkip(mode="quad", every=2)).to_json(), fresh(job, sampler_name="Heun")
    host.process_images(host.script(), job, *args_of(recipe=quad))
    assert any("mode='quad'" in text for text in job.comments), list(job.comments)


# -- what was refused --


def test_a_refused_pass_has_a_figure_of_its_own(host: a1111.Host, job: a1111.Job) -> None:
    host.opts.hypertile_enable_unet_secondpass = True
    job = fresh(job, enable_hr=True)
    host.process_images(host.script(), job, *args_of(**MERGE, rule="interval", every=5))
    told, report = job.extra_generation_params, runs(host)[1].report
    assert told[MERGED] == f"{report.merged_share:.0%} / 0%" and told[BLOCKS_RUN] == "20% / 20%"
    assert told[REFUSED].startswith("merged no tokens in the hires pass: Hypertile")
    assert refused(job) == [f"Skipstone {told[REFUSED]}"]


@pytest.mark.parametrize("what", ["SD Unet", "Hypertile", "own token merging"])
def test_figures_of_what_did_not_happen_are_left_out(host: a1111.Host, job: a1111.Job, what: str) -> None:
    host.sd_unet.current_unet = object() if what == "SD Unet" else None
    host.opts.hypertile_enable_unet = what == "Hypertile"
    for values, key in ((MERGE, MERGED), ({"threshold": 1.0, "dato": "custom", "ratio": 0.4}, PRUNED)):
        one = fresh(job, token_merging=0.5 if what == "own token merging" else 0.0)
        host.process_images(host.script(), one, *args_of(**values))
        told = one.extra_generation_params
        assert key not in told and what in told[REFUSED] and told["Skipstone threshold"]


def test_a_hires_pass_that_there_is_not_is_not_claimed(host: a1111.Host, job: a1111.Job) -> None:
    host.process_images(host.script(), job, *args_of(**MERGE, passes=HIRES))
    assert "no hires pass" in job.extra_generation_params[REFUSED] and MERGED not in job.extra_generation_params


def test_the_next_picture_does_not_inherit_a_refusal(host: a1111.Host, job: a1111.Job) -> None:
    host.opts.hypertile_enable_unet = True
    host.process_images(host.script(), job, *args_of(**MERGE))
    host.opts.hypertile_enable_unet = False
    again = fresh(job, extra_generation_params=job.extra_generation_params)
    host.process_images(host.script(), again, *args_of(**MERGE))
    assert REFUSED not in again.extra_generation_params and MERGED in again.extra_generation_params


def test_a_long_reason_is_cut_to_one_short_line(host: a1111.Host, job: a1111.Job) -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, timesteps: Any, context: Any) -> torch.Tensor:
            return 0.5 * x

    Net.__name__ = "N" * 400
    other = fresh(job, unet=Net())
    host.process_images(host.script(), other, *args_of(**MERGE))
    (text,) = refused(other)
    assert len(text) == 300 and text.endswith("…") and "\n" not in text


# -- methods that fit --


def test_what_a_network_cannot_do_is_left_out_and_the_rest_runs(host: a1111.Host) -> None:
    """Flux has no attention whose tokens could be merged: the panel's default threshold does not take a rule with it."""
    job = fresh(job_of(flux()), timesteps=TIMES, forge=True)
    x = host.process_images(host.script(), job, *args_of(rule="interval", every=5))
    assert not torch.equal(x, dense(host, job))
    told = job.extra_generation_params
    assert told[BLOCKS_RUN] == "20%" and MERGED not in told
    assert told[REFUSED].startswith("merged no tokens: IntegratedFluxTransformer2DModel has no self-attention")
    alone = fresh(job)
    assert torch.equal(host.process_images(host.script(), alone, *args_of()), dense(host, job))
    assert alone.extra_generation_params[REFUSED].startswith("did nothing: ")
