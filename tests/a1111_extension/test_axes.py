"""The axes of A1111's X/Y/Z plot: one for each number, choice and switch of the panel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import LAYERS, ON, args_of, dense, fresh, runs

from skipstone.a1111_extension.settings import PanelSettings
from skipstone.a1111_extension.xyz import AXES, with_axes
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.presets import preset
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune

pytest_plugins = ["doubles.a1111_fixtures"]


def test_axes_are_added_once_and_set_the_job_not_the_options(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    host.fire("on_before_ui")
    names = ["Threshold", "Checkpoints", "Block rule every", "DaTo", "DaTo ratio"]
    labels = [axis.label for axis in host.xyz.axis_options]
    assert labels[:5] == [f"[Skipstone] {name}" for name in names]
    assert len(set(labels)) == len(labels) == len([c for c in host.script().components if c.kind != "Textbox"]) - 1, (
        "all but the switch"
    )
    threshold, checkpoints, *_ = host.xyz.axis_options
    threshold.apply(job, 0.25, [0.25])
    checkpoints.apply(job, "0 8 20", ["0 8 20"])
    host.process_images(host.script(), job, False)
    assert job.extra_generation_params["Skipstone threshold"] == "0.25"
    assert job.extra_generation_params["Skipstone checkpoints"] == "0 8 20"
    assert runs(host)[0].report.served == LAYERS and vars(host.opts) == {}


def test_a_cell_at_threshold_one_is_dense_and_keeps_no_figure_of_another_cell(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    shared = job.extra_generation_params
    for value in (0.0, 1.0):
        cell = fresh(job, extra_generation_params=shared)
        host.xyz.axis_options[0].apply(cell, value, [])
        x = host.process_images(host.script(), cell, *ON)
    assert torch.equal(x, dense(host, job))
    assert shared == {"Skipstone threshold": "1", "Skipstone checkpoints": "config_3"}


def test_an_axis_changes_the_recipe_box_too(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    host.xyz.axis_options[0].apply(job, 0.25, [0.25])
    host.process_images(host.script(), job, *args_of(recipe=preset("reference").to_json()))
    recipe = Recipe.from_json(job.extra_generation_params["Skipstone recipe"])
    assert recipe.merge is not None and (recipe.merge.threshold, recipe.merge.batch) == (0.25, "max")


def test_wrong_axis_values_are_refused_before_the_grid_begins(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    threshold, checkpoints, every, dato, ratio, *_ = host.xyz.axis_options
    threshold.confirm(job, [0.5, 1.0])
    checkpoints.confirm(job, ["every", "0 8"])
    every.confirm(job, [1, 3])
    dato.confirm(job, dato.choices())
    ratio.confirm(job, [0.0, 0.75])
    wrong = ((threshold, [0.5, 2.0]), (checkpoints, ["soon"]), (every, [2, 0]), (dato, ["custom"]), (ratio, [0.4, 0.8]))
    for axis, bad in wrong:
        with pytest.raises(ValueError, match=r"outside|cannot be read|whole number|not one of"):
            axis.confirm(job, bad)


MERGE, PRUNE, MASK = TokenMerge(), TokenPrune(), BlockSkip(mask="a.safetensors")
PRUNES: dict[str, Any] = {"threshold": 1.0, "dato": "custom"}


@pytest.mark.parametrize(
    ("panel", "cell", "methods"),
    [
        ({}, {"matching": "local"}, [TokenMerge(matching="local")]),
        ({"rule": "interval"}, {"start": 0.25}, [TokenMerge(start=0.25), BlockSkip(rule="interval", start=0.25)]),
        ({"enabled": False, "rule": "fora"}, {"end": 0.5}, [TokenMerge(end=0.5), BlockSkip(rule="fora", end=0.5)]),
        ({}, {"max_downsample": "2"}, [TokenMerge(max_downsample=2)]),
        ({}, {"merge_in": "self-attention and feed-forward"}, [TokenMerge(targets=("attn1", "ff"))]),
        ({}, {"proportional": "True"}, [TokenMerge(proportional=True)]),
        ({"enabled": False, **PRUNES}, {"destination": "random"}, [TokenMerge(threshold=1.0, destination="random")]),
        ({}, {"gamma": 2.0}, [TokenPrune(gamma=2.0)]),
        ({}, {"gamma": 2.0, "dato": "off"}, [MERGE]),
        (PRUNES, {"stride": 4}, [TokenPrune(stride=(4, 4))]),
        ({}, {"rule": "interval"}, [MERGE, BlockSkip(rule="interval")]),
        ({"depths": "1 0"}, {"rule": "depths"}, [MERGE, BlockSkip(rule="depths", depths=(1, 0))]),
        ({"enabled": False, "rule": "interval", "every": 5}, {"rule": "fora"}, [BlockSkip(rule="fora", every=5)]),
        ({"rule": "interval"}, {"rule": "off"}, [MERGE]),
        ({"threshold": 1.0, "dato": "dato_b"}, {"rule": "interval"}, [BlockSkip(rule="interval")]),
        ({"rule": "interval"}, {"branch": 2}, [MERGE, BlockSkip(branch=2)]),
        ({"depths": "1 0"}, {"rule": "depths", "every": 5}, [MERGE, BlockSkip(rule="depths", depths=(1, 0))]),
        ({"recipe": Recipe(skip=MASK).to_json()}, {"rule": "interval"}, [BlockSkip(rule="interval")]),
        ({"recipe": Recipe(skip=MASK).to_json()}, {"forecast": "True"}, [BlockSkip(mask=MASK.mask, forecast=True)]),
    ],
    ids=str,
)
def test_a_value_of_an_axis_reaches_the_methods_that_have_it(
    panel: dict[str, Any], cell: dict[str, Any], methods: list[Any]
) -> None:
    job = SimpleNamespace(**{f"skipstone_{name}": value for name, value in cell.items()})
    found = with_axes(PanelSettings(**{"enabled": True, **panel}), job)
    assert found.enabled
    in_use = [m for m in found.as_recipe().methods if not m.neutral]
    assert in_use == [m for m in methods if not m.neutral]


def test_an_axis_over_the_passes_changes_nothing_else() -> None:
    panel = PanelSettings(enabled=True, threshold=0.5)
    assert with_axes(panel, SimpleNamespace(skipstone_passes="first pass only")) == panel.but(hires_pass="off")


def test_the_choices_of_every_axis_are_taken(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    for entry, axis in zip(AXES, host.xyz.axis_options, strict=True):
        if axis.choices:
            axis.confirm(job, axis.choices())
            with pytest.raises(ValueError, match=rf"{entry.name}|checkpoints"):
                axis.confirm(job, ["none of these"])


def test_an_axis_over_the_mask_files_reads_the_folder_and_switches_the_mask_on(
    host: a1111.Host, job: a1111.Job, tmp_path: Path
) -> None:
    host.fire("on_before_ui")
    (axis,) = [axis for axis in host.xyz.axis_options if axis.label == "[Skipstone] Mask file"]
    assert axis.choices() == []
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / "skipstone_masks").mkdir(exist_ok=True)
        (tmp_path / "skipstone_masks" / name).touch()
    assert axis.choices() == ["a.safetensors", "b.safetensors"]
    axis.confirm(job, ["b.safetensors"])
    with pytest.raises(ValueError, match="mask="):
        axis.confirm(job, ["c.safetensors"])
    axis.apply(job, "b.safetensors", [])
    assert with_axes(PanelSettings(), job).as_recipe().skip == BlockSkip(mask="b.safetensors")
