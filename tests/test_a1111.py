"""The A1111 and Forge script, driven by doubles of the host: on, off, hires, swaps, errors, infotext, axes and the tab."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from doubles import a1111
from hypothesis import given
from hypothesis import strategies as st

from skipstone.a1111_extension.labels import StepRows
from skipstone.a1111_extension.settings import (
    BOTH,
    CHECKPOINTS,
    CUSTOM,
    FIRST,
    HIRES,
    LEVELS,
    MERGE_IN,
    MERGED,
    PASSES,
    PanelSettings,
    read_infotext,
)
from skipstone.core.errors import SkipstoneError
from skipstone.core.recipe import Recipe, TokenMerge, preset

ON = (True, 0.0)
"""Panel on, at a threshold that merges much in a tiny random network."""

LAYERS = 3
"""Transformer blocks of the tiny network at the latent's own resolution."""


def args_of(**values: Any) -> tuple[Any, ...]:
    """The host's argument list for a panel that is on."""
    return tuple(asdict(PanelSettings(enabled=True, **values)).values())


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[a1111.Host]:
    """A web UI with Skipstone loaded."""
    yield a1111.install(monkeypatch)
    a1111.forget_shim()


@pytest.fixture(scope="module")
def models() -> tuple[tiny.Case, tiny.Case]:
    """Two checkpoints of one architecture."""
    return tiny.ldm_unet(), tiny.ldm_unet(seed=1)


@pytest.fixture
def job(models: tuple[tiny.Case, tiny.Case]) -> Iterator[a1111.Job]:
    """One picture's job; nothing of it may be left on the U-Nets."""
    yield job_of(models[0])
    for case in models:
        assert list(a1111.traces(case.model)) == []


def job_of(case: tiny.Case, **options: Any) -> a1111.Job:
    return a1111.Job(case.model, case.latent(1), case.cond(1, seed=5), case.cond(1, seed=6), **options)


def fresh(job: a1111.Job, **options: Any) -> a1111.Job:
    """The same request once more."""
    names = ("unet", "latent", "cond", "uncond", "timesteps", "enable_hr", "forge")
    return a1111.Job(**{**{n: getattr(job, n) for n in names}, **options})


def runs(host: a1111.Host) -> list[Any]:
    """The reports kept, newest first."""
    return host.module._script.HISTORY.runs()


def dense(host: a1111.Host, job: a1111.Job) -> torch.Tensor:
    """The picture as it is without Skipstone: no hook of the script is called."""
    script = SimpleNamespace()
    for name in ("before_process", "process", "process_before_every_sampling", "post_sample", "postprocess_batch"):
        setattr(script, name, lambda *a, **k: None)
    script.postprocess = script.post_sample
    return host.process_images(script, fresh(job))


# -- loading --


def test_the_shim_shows_the_host_one_script_and_takes_no_generic_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("core", "nodes", "tests", "a1111_extension"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    host = a1111.install(monkeypatch)
    shown = [v for v in vars(host.module).values() if isinstance(v, type) and issubclass(v, a1111.Script)]
    assert [c.__name__ for c in shown] == ["SkipstoneScript"]
    assert shown[0].__module__ == "_skipstone_webui.a1111_extension.script"
    assert not hasattr(sys.modules["_skipstone_webui"], "comfy_entrypoint"), "the root __init__ was run"
    assert all(len(found) == 1 for found in host.callbacks.values())
    a1111.forget_shim()


def test_reload_ui_registers_again_and_leaves_nothing_of_the_old_code_on_the_model(
    host: a1111.Host, job: a1111.Job
) -> None:
    script = host.script()
    script.process_before_every_sampling(job, *ON, x=job.latent)
    assert list(a1111.traces(job.unet)) == ["._forward_hooks", "._forward_pre_hooks"]
    again = a1111.load_shim()
    assert list(a1111.traces(job.unet)) == []
    assert again.SkipstoneScript is not host.module.SkipstoneScript
    assert [len(found) for found in host.callbacks.values()] == [2] * len(host.callbacks)


# -- the panel --


def test_the_order_of_the_arguments_is_the_public_one(host: a1111.Host) -> None:
    ids = [c.elem_id.removeprefix("script_img2img_skipstone_") for c in host.script(img2img=True).components]
    assert ids == [
        "enable",
        "threshold",
        "checkpoints",
        "custom",
        "passes",
        "matching",
        "proportional",
        "destination",
        "batch",
        "max_downsample",
        "merge_in",
        "start",
        "end",
        "recipe",
    ]


def test_the_panel_shows_the_defaults_of_its_settings(host: a1111.Host) -> None:
    values = [c.value for c in host.script().components]
    assert values == list(asdict(PanelSettings()).values())
    assert PanelSettings.of_args(values) == PanelSettings()
    assert values[0] is False
    assert PanelSettings().as_recipe().merge == TokenMerge()


def test_the_choices_that_the_panel_offers_are_taken(host: a1111.Host) -> None:
    for component, name in zip(host.script().components, fields(PanelSettings), strict=True):
        for choice in component.choices or ():
            if choice != CUSTOM:
                PanelSettings(**{name.name: choice}).as_recipe()


def test_a_shorter_argument_list_keeps_the_defaults() -> None:
    assert PanelSettings.of_args([True, 0.4]) == PanelSettings(enabled=True, threshold=0.4)
    assert PanelSettings.of_args([True, None, "every"]) == PanelSettings(enabled=True, checkpoints="every")
    assert PanelSettings.of_args([*asdict(PanelSettings()).values(), "of a newer version"]) == PanelSettings()


# -- a job --


def test_disabled_is_as_never_installed(host: a1111.Host, job: a1111.Job) -> None:
    script, seen = host.script(), []
    host.on_step = lambda job, step: seen.extend(a1111.traces(job.unet))
    x = host.process_images(script, job, False, 0.0)
    assert torch.equal(x, dense(host, job))
    assert seen == [] and runs(host) == [] and job.extra_generation_params == {} and job.comments == {}


def test_a_neutral_threshold_touches_nothing(host: a1111.Host, job: a1111.Job) -> None:
    seen: list[str] = []
    host.on_step = lambda job, step: seen.extend(a1111.traces(job.unet))
    x = host.process_images(host.script(), job, True, 1.0)
    assert torch.equal(x, dense(host, job))
    assert seen == [] and runs(host) == []


@pytest.mark.parametrize("forge", [False, True], ids=["a1111", "forge"])
def test_off_on_off_equals_off(host: a1111.Host, job: a1111.Job, forge: bool) -> None:
    script = host.script()
    job = fresh(job, forge=forge)
    off = host.process_images(script, job, False)
    on = host.process_images(script, fresh(job), *ON)
    assert not torch.equal(on, off)
    assert torch.equal(host.process_images(script, fresh(job), False), off)
    (run,) = runs(host)
    assert run.report.calls == 5 and run.report.served == LAYERS and run.report.merged_share > 0.5
    assert run.title == "one pass, 128 x 128"


def test_the_picture_tells_what_was_merged(host: a1111.Host, job: a1111.Job) -> None:
    host.process_images(host.script(), job, *ON)
    share = runs(host)[0].report.merged_share
    assert job.extra_generation_params == {
        "Skipstone threshold": "0",
        "Skipstone checkpoints": "config_3",
        MERGED: f"{share:.0%}",
    }


@pytest.mark.parametrize(("passes", "titles"), [(BOTH, 2), (FIRST, 1), (HIRES, 1)])
@pytest.mark.parametrize("forge", [False, True], ids=["a1111", "forge"])
def test_the_hires_switch_chooses_the_passes(
    host: a1111.Host, job: a1111.Job, passes: str, titles: int, forge: bool
) -> None:
    job = fresh(job, enable_hr=True, forge=forge)
    x = host.process_images(host.script(), job, *ON, "config_3", "", passes)
    found = [run.title for run in reversed(runs(host))]
    expected = {FIRST: ["first pass, 128 x 128"], HIRES: ["hires pass, 256 x 256"]}
    assert found == expected.get(passes, expected[FIRST] + expected[HIRES])
    assert all(run.report.calls == 5 for run in runs(host))
    assert len(job.extra_generation_params[MERGED].split(" / ")) == titles
    assert not torch.equal(x, dense(host, job))


def test_a_hires_switch_without_a_hires_pass_is_told(host: a1111.Host, job: a1111.Job) -> None:
    x = host.process_images(host.script(), job, *ON, "config_3", "", HIRES)
    assert torch.equal(x, dense(host, job))
    (text,) = job.comments
    assert "no hires pass" in text


def test_how_the_rows_are_batched_changes_nothing(host: a1111.Host, job: a1111.Job) -> None:
    args = (*ON, "every")
    x = host.process_images(host.script(), job, *args)
    host.calls = a1111.split
    y = host.process_images(host.script(), fresh(job), *args)
    forge = host.process_images(host.script(), fresh(job, forge=True), *args)
    assert torch.allclose(x, y, atol=1e-5) and torch.allclose(x, forge, atol=1e-5)
    assert [r.report.calls for r in runs(host)] == [5, 5, 5]


def test_unconds_dropped_in_mid_run_leave_the_conds_their_pairs(host: a1111.Host, job: a1111.Job) -> None:
    host.calls = lambda step, conds: [2 * conds] if step < 2 else [conds]
    host.process_images(host.script(), job, *ON, CUSTOM, "0")
    report = runs(host)[0].report
    assert {layer.searched for layer in report.layers.values()} == {1}
    assert {layer.reused for layer in report.layers.values()} == {4}


def test_each_job_starts_with_a_search_of_its_own(host: a1111.Host, job: a1111.Job) -> None:
    script = host.script()
    first = host.process_images(script, job, *ON, CUSTOM, "0")
    other = fresh(job, latent=tiny.noise(*job.latent.shape, seed=9))
    host.process_images(script, other, *ON, CUSTOM, "0")
    assert torch.equal(host.process_images(script, fresh(job), *ON, CUSTOM, "0"), first)


# -- jobs that end badly, and jobs inside jobs --


def test_an_exception_in_the_unet_leaves_the_next_disabled_job_exact(host: a1111.Host, job: a1111.Job) -> None:
    script, handles = host.script(), []

    def fail(job: a1111.Job, step: int) -> None:
        if step == 2:
            module = job.unet.middle_block
            handles.append(
                module.register_forward_pre_hook(lambda *a: (_ for _ in ()).throw(RuntimeError("no memory")))
            )

    host.on_step = fail
    with pytest.raises(RuntimeError, match="no memory"):
        host.process_images(script, job, *ON)
    handles[0].remove()
    host.on_step = lambda job, step: None
    assert not any(trace.endswith("forward") for trace in a1111.traces(job.unet)), "leaf overrides outlived the call"
    assert list(a1111.traces(job.unet)), "the host never told that the job ended"
    script.before_process(fresh(job), False)
    assert list(a1111.traces(job.unet)) == []
    x = host.process_images(script, fresh(job), False)
    assert torch.equal(x, dense(host, job))
    assert list(a1111.traces(job.unet)) == []


def test_an_interrupt_frees_the_model_and_keeps_the_report(host: a1111.Host, job: a1111.Job) -> None:
    def interrupt(job: a1111.Job, step: int) -> None:
        if step == 3:
            raise a1111.Interrupted

    host.on_step = interrupt
    host.process_images(host.script(), job, *ON)
    assert runs(host)[0].report.calls == 3


def test_a_job_inside_a_job_runs_plain_and_the_outer_one_goes_on(host: a1111.Host, job: a1111.Job) -> None:
    seen = []

    def nested(job: a1111.Job, step: int) -> None:
        if step == 2 and job is outer:
            inner = fresh(job, latent=2 * job.latent)
            seen.append((host._sample(inner, inner.latent), dense(host, inner)))

    outer = job
    alone = host.process_images(host.script(), fresh(job), *ON)
    host.on_step = nested
    x = host.process_images(host.script(), outer, *ON)
    assert torch.equal(*seen[0])
    assert torch.equal(x, alone)
    assert runs(host)[0].report.calls == 5


def test_a_nested_job_with_the_panel_on_serves_itself(host: a1111.Host, job: a1111.Job) -> None:
    script, args = host.script(), (*ON, "every")
    script.before_process(job, *args)
    script.process(job, *args)
    host._begin(script, job, args, job.latent)
    host._sample(job, job.latent)
    nested = host.process_images(script, fresh(job), *args)
    host._begin(script, job, args, job.latent)
    assert torch.equal(host._sample(job, job.latent), nested)
    script.postprocess(job, None, *args)
    assert [run.report.calls for run in runs(host)] == [5, 5, 5]


# -- model swaps --


def test_a_refiner_of_another_object_is_served_and_the_first_one_let_go(
    host: a1111.Host, job: a1111.Job, models: tuple[tiny.Case, tiny.Case]
) -> None:
    def swap(job: a1111.Job, step: int) -> None:
        if step == 3:
            job.sd_model.model.diffusion_model = models[1].model

    host.on_step = swap
    host.process_images(host.script(), job, *ON)
    assert [(run.title, run.report.calls) for run in reversed(runs(host))] == [
        ("one pass, 128 x 128", 3),
        ("one pass, 128 x 128, after a model switch", 2),
    ]
    assert all(run.report.served == LAYERS for run in runs(host))


@pytest.mark.parametrize("how", ["another checkpoint", "loaded again"])
def test_new_weights_in_the_same_modules_start_afresh(host: a1111.Host, job: a1111.Job, how: str) -> None:
    def swap(job: a1111.Job, step: int) -> None:
        if step == 3 and how == "another checkpoint":
            job.sd_model.sd_checkpoint_info.filename = "second.safetensors"
        elif step == 3:
            host.fire("on_model_loaded", job.sd_model)

    host.on_step = swap
    host.process_images(host.script(), job, *ON, CUSTOM, "0")
    assert [run.report.calls for run in reversed(runs(host))] == [3, 2]
    assert all({layer.searched for layer in run.report.layers.values()} == {1} for run in runs(host))


# -- what cannot be served is told in one line, and the picture comes dense --


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((True, 1.5), "threshold=1.5 is outside [-1, 1]"),
        ((True, "much"), "threshold='much'"),
        ((True, 0.0, CUSTOM, "0, eight"), "checkpoints '0, eight' cannot be read"),
        ((True, 0.0, CUSTOM, ""), "checkpoints '' cannot be read"),
        ((True, 0.0, "config_9"), "checkpoints 'config_9' cannot be read"),
        ((True, 0.0, "every", "", "sometimes"), "passes='sometimes' is not one of"),
        ((True, 0.0, "every", "", BOTH, "nearest"), "matching='nearest' is not one of"),
        (args_of(recipe="{not json"), "recipe is not JSON"),
        (args_of(start=0.8, end=0.2), "start=0.8 is after end=0.2"),
        (args_of(max_downsample="3"), "coarsest level='3' is not one of"),
    ],
)
def test_bad_values_are_told_once_and_the_picture_is_dense(
    host: a1111.Host, job: a1111.Job, args: tuple[Any, ...], says: str
) -> None:
    x = host.process_images(host.script(), job, *args)
    assert torch.equal(x, dense(host, job))
    (text,) = job.comments
    assert says in text and "\n" not in text and text.startswith("Skipstone: no tokens merged.")
    assert job.extra_generation_params == {} and runs(host) == []


@pytest.mark.parametrize("forge", [False, True], ids=["a1111", "forge"])
def test_the_hosts_own_token_merging_goes_first(host: a1111.Host, job: a1111.Job, forge: bool) -> None:
    job = fresh(job, token_merging=0.5, forge=forge)
    assert_declined(host, job, "own token merging")


def test_hypertile_goes_first(host: a1111.Host, job: a1111.Job) -> None:
    host.opts.hypertile_enable_unet = True
    assert_declined(host, job, "Hypertile")


def test_hypertile_for_the_second_pass_declines_that_pass_only(host: a1111.Host, job: a1111.Job) -> None:
    host.opts.hypertile_enable_unet_secondpass = True
    job = fresh(job, enable_hr=True)
    host.process_images(host.script(), job, *ON)
    assert [run.title for run in runs(host)] == ["first pass, 128 x 128"]
    (text,) = job.comments
    assert "Hypertile" in text


def test_an_sd_unet_goes_first(host: a1111.Host, job: a1111.Job) -> None:
    host.sd_unet.current_unet = object()
    assert_declined(host, job, "SD Unet")


def test_a_model_that_is_no_unet_is_declined(host: a1111.Host) -> None:
    class MMDiT(torch.nn.Module):
        """A network of no family that Skipstone knows."""

        def forward(self, x: torch.Tensor, timesteps: Any, context: Any) -> torch.Tensor:
            return 0.5 * x

    case = tiny.Case("mmdit", MMDiT(), lambda m, x, t, c: m(x, t, c))
    assert_declined(host, job_of(case), "MMDiT is of no supported family")


def assert_declined(host: a1111.Host, job: a1111.Job, says: str) -> None:
    x = host.process_images(host.script(), job, *ON)
    assert torch.equal(x, dense(host, job))
    (text,) = job.comments
    assert says in text and runs(host) == []


def test_no_layer_served_is_said_loudly(host: a1111.Host) -> None:
    job = job_of(tiny.ldm_unet(attention=(2,)))
    x = host.process_images(host.script(), job, *args_of(threshold=0.0, max_downsample="1"))
    assert torch.equal(x, dense(host, job))
    (text,) = job.comments
    assert "served NO layer" in text and "coarser than 1/1" in text
    assert job.extra_generation_params[MERGED] == "0%"


def test_proportional_attention_is_declined_with_a_reason(host: a1111.Host, job: a1111.Job) -> None:
    x = host.process_images(host.script(), job, *args_of(threshold=0.0))
    y = host.process_images(host.script(), fresh(job), *args_of(threshold=0.0, proportional=True))
    assert torch.equal(x, y)
    assert any("proportional attention is off" in note for note in runs(host)[0].report.notes)


def test_a_latent_that_is_no_picture_runs_dense(host: a1111.Host, job: a1111.Job) -> None:
    script = host.script()
    script.process_before_every_sampling(job, *ON, x=job.latent)
    with pytest.raises(Exception):  # noqa: B017 - the U-Net's own error, not one of ours
        a1111.call_unet(job.unet, job.latent[0], 500.0, job.cond)
    expected = a1111.call_unet(job.unet, job.latent, 500.0, job.cond)
    script.postprocess(job, None, *ON)
    assert not torch.equal(expected, a1111.call_unet(job.unet, job.latent, 500.0, job.cond))
    assert "a whole call" in next(iter(runs(host)[0].report.declined.values()))


# -- labels --


def test_rows_are_known_by_their_place_in_the_step() -> None:
    rows = StepRows()
    keys = []
    for calls in ([4], [2, 2], [1, 1, 1, 1], [3, 1], [2]):
        rows.new_step(2)
        keys.append([(s.key, s.rows) for call in calls for s in rows.label(500.0, call)])
    assert keys[0] == keys[1] == [(("cond", 0), 2), (("uncond", 0), 2)]
    assert keys[2] == [(("cond", 0), 1), (("cond", 1), 1), (("uncond", 0), 1), (("uncond", 1), 1)]
    assert keys[3] == [(("cond", 0), 2), (("uncond", 0), 1), (("uncond", 1), 1)]
    assert keys[4] == [(("cond", 0), 2)]


def test_forge_says_which_chunks_are_conds() -> None:
    rows = StepRows()
    for _ in range(2):
        rows.new_step(None)
        keys = [s.key for s in (*rows.label(500.0, 4, [1, 0]), *rows.label(500.0, 2, [0]))]
        assert keys == [("chunk", 1, 1), ("chunk", 0, 1), ("chunk", 0, 2)]


def test_a_sampler_without_callbacks_is_told_by_its_timesteps() -> None:
    rows = StepRows()
    keys = [rows.label(t, 1)[0].key for t in (900.0, 900.0, 700.0, 700.0)]
    assert keys == [("row", 0), ("row", 1)] * 2


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 6))
def test_labels_cover_all_rows(calls: list[int], conds: int) -> None:
    rows = StepRows()
    rows.new_step(conds)
    labelled = [rows.label(500.0, n) for n in calls]
    assert [sum(s.rows for s in streams) for streams in labelled] == calls
    keys = [s.key for streams in labelled for s in streams]
    assert len(keys) == len(set(keys))


# -- infotext --

PANELS = st.builds(
    PanelSettings,
    enabled=st.just(True),
    threshold=st.integers(-100, 100).map(lambda n: n / 100),
    checkpoints=st.sampled_from(CHECKPOINTS),
    custom=st.lists(st.integers(0, 50), min_size=1).map(lambda calls: ", ".join(map(str, calls))),
    passes=st.sampled_from(PASSES),
    matching=st.sampled_from(["dense", "local"]),
    proportional=st.booleans(),
    destination=st.sampled_from(["top_left", "random"]),
    batch=st.sampled_from(["per_sample", "max"]),
    max_downsample=st.sampled_from(LEVELS),
    merge_in=st.sampled_from(list(MERGE_IN)),
    start=st.sampled_from([0, 0.0, 0.25]),
    end=st.sampled_from([1, 1.0, 0.75]),
    recipe=st.sampled_from(["", preset("reference").to_json()]),
)


@given(PANELS)
def test_infotext_pastes_back_the_same_settings(panel: PanelSettings) -> None:
    params = a1111.parse_infotext(a1111.write_infotext({"Steps": 20, **panel.infotext(), "Version": "1.10.1"}))
    pasted = PanelSettings(**{f.name: read_infotext(f.name)(params) for f in fields(PanelSettings)})
    assert pasted.enabled is True
    assert pasted.as_recipe().merge == panel.as_recipe().merge
    assert pasted.passes == panel.passes


def test_infotext_holds_only_what_is_not_default() -> None:
    assert PanelSettings(True, start=0, end=1).infotext() == {
        "Skipstone threshold": "0.7",
        "Skipstone checkpoints": "config_3",
    }


def test_a_dense_picture_pasted_switches_the_panel_off_and_leaves_the_rest(host: a1111.Host) -> None:
    script = host.script()
    params = a1111.parse_infotext("Steps: 20, Sampler: Euler, Version: 1.10.1")
    assert [read(params) for _, read in script.infotext_fields] == [False] + [None] * 13


def test_both_tabs_name_their_fields_alike_for_send_to_img2img(host: a1111.Host) -> None:
    here, there = host.script(), host.script(img2img=True)
    sent = [component for component, name in here.infotext_fields if name in there.paste_field_names]
    assert sent == here.components


# -- axes --


def test_axes_are_added_once_and_set_the_job_not_the_options(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    host.fire("on_before_ui")
    threshold, checkpoints = host.xyz.axis_options
    assert [threshold.label, checkpoints.label] == ["[Skipstone] Threshold", "[Skipstone] Checkpoints"]
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
    threshold, checkpoints = host.xyz.axis_options
    threshold.confirm(job, [0.5, 1.0])
    checkpoints.confirm(job, ["every", "0 8"])
    for axis, bad in ((threshold, [0.5, 2.0]), (checkpoints, ["soon"])):
        with pytest.raises(ValueError, match=r"outside|cannot be read"):
            axis.confirm(job, bad)


# -- the tab --


@pytest.fixture
def tab(host: a1111.Host) -> dict[str, a1111.Component]:
    """The tab's components by elem_id, both panels built before it as the host does."""
    for img2img in (False, True):
        host.script(img2img)
    ((block, title, name),) = host.fire("on_ui_tabs")[0]
    assert (title, name) == ("Skipstone", "skipstone") and block is host.made["Blocks"]
    return host.made


def test_the_tab_shows_the_last_run_and_both_panels_follow(
    host: a1111.Host, tab: dict[str, a1111.Component], job: a1111.Job
) -> None:
    assert "No run yet" in tab["skipstone_refresh"].fire("click")
    script = host.script()
    assert script.log.fire("change") == "No run yet."
    host.process_images(script, job, *ON)
    shown = tab["Blocks"].fire("load")
    assert shown == tab["skipstone_refresh"].fire("click")
    assert "in 3 layers, 5 calls" in shown and shown.count("<tr>") == 1 + LAYERS
    assert script.log.fire("change").startswith("Last run: merged ")


def test_the_report_keeps_a_few_runs_and_escapes_their_text(host: a1111.Host, job: a1111.Job) -> None:
    history = host.module._script.HISTORY
    for _ in range(6):
        host.process_images(host.script(), fresh(job), *ON)
    assert len(runs(host)) == 4
    runs(host)[0].report.notes.append("<script>")
    page = sys.modules["_skipstone_webui.a1111_extension.history"].page(history)
    assert page.count("<li>") == 3 and "&lt;script&gt;" in page and "<script>" not in page


def test_the_tab_sends_what_its_controls_say(host: a1111.Host, tab: dict[str, a1111.Component]) -> None:
    recipe = tab["skipstone_tab_recipe"].value
    text, told = tab["skipstone_tab_threshold"].fire("input", recipe, 0.55, CUSTOM, "0 8 11")
    assert told == ""
    told, *values = tab["skipstone_send_txt2img"].fire("click", text)
    assert told == "Sent: Skipstone is on in txt2img."
    values[4] = BOTH
    panel = PanelSettings.of_args(values)
    assert panel.enabled and panel.recipe == ""
    assert panel.as_recipe().merge == TokenMerge(threshold=0.55, checkpoints=(0, 8, 11))


@pytest.mark.parametrize("name", ["ca_tome", "balanced", "reference", "ca_tome:config_1"])
def test_any_recipe_can_be_sent_to_the_panel(host: a1111.Host, tab: dict[str, a1111.Component], name: str) -> None:
    _, *values = tab["skipstone_send_img2img"].fire("click", preset(name).to_json())
    values[4] = BOTH
    assert PanelSettings.of_args(values).as_recipe().merge == preset(name).merge


def test_presets_fill_the_tabs_controls(tab: dict[str, a1111.Component]) -> None:
    for choice in tab["skipstone_tab_preset"].choices:
        text, threshold, checkpoints, custom = tab["skipstone_tab_preset"].fire("input", choice)
        merge = Recipe.from_json(text).merge
        assert merge is not None and (threshold, checkpoints, custom) == (merge.threshold, merge.checkpoints, "")


def test_a_broken_recipe_is_told_and_changes_nothing(tab: dict[str, a1111.Component]) -> None:
    told, *values = tab["skipstone_send_txt2img"].fire("click", "{")
    assert "recipe is not JSON" in told and values == [{"__type__": "update"}] * 14
    value, told = tab["skipstone_tab_custom"].fire("input", preset("ca_tome").to_json(), 0.7, CUSTOM, "<b>")
    assert value == {"__type__": "update"} and "&lt;b&gt;" in told


def test_settings_refuse_what_no_recipe_can_say() -> None:
    with pytest.raises(SkipstoneError, match="merge in='everywhere'"):
        PanelSettings(merge_in="everywhere").as_recipe()
